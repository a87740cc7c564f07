"""What methods add to a base model, without its weights: the paper's percentages for LLaMA2-7B, and refusals."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import yaml

from analysis.methods.paper import TABLE_1, TABLE_2, TABLE_3_MEANS
from hydralora.methods import MethodConfig, MethodError
from pipelines.study.experiments import EXPERIMENTS, TRAINED_AS
from pipelines.study.sizes import method_sizes
from pipelines.training.recipe import BaseModel, Recipe

CONFIGS = Path(__file__).parents[3] / "pipelines" / "configs"
LLAMA = CONFIGS / "llama2-7b"


@pytest.fixture(scope="module")
def llama() -> pl.DataFrame:
    """Sizes of the methods of the paper's Tables 1 to 3 on LLaMA2-7B's shapes."""
    recipe = Recipe(**yaml.safe_load((CONFIGS / "paper-llama2-7b.yaml").read_text())["resources"]["recipe"]["config"])
    tables = []
    for n, names in ((3, ("table_1", "table_2")), (10, ("table_3",))):
        methods = sorted({TRAINED_AS.get(method, method) for name in names for method in EXPERIMENTS[name].methods})
        settings = replace(recipe.method_config(n), total_steps=100)  # AdaLoRA's schedule needs a number of steps
        tables.append(method_sizes(BaseModel(name=str(LLAMA)), methods, settings).with_columns(num_experts=n))
    return pl.concat(tables)


@pytest.mark.parametrize(
    ("printed", "num_experts", "but"),
    # Here LoRA MoE and LoraHub have ten LoRAs, the paper's 48 and 20.
    [(TABLE_1, 3, ()), (TABLE_2, 3, ()), (TABLE_3_MEANS, 10, ("lora_moe", "lorahub"))],
    ids=["table_1", "table_2", "table_3"],
)
def test_percent_of_parameters_is_the_papers(
    llama: pl.DataFrame, printed: pl.DataFrame, num_experts: int, but: tuple[str, ...]
) -> None:
    sizes = llama.filter(pl.col("num_experts") == num_experts)
    ours = dict(sizes.select("method", "percent_without_router").iter_rows())
    for method, percent in printed.drop_nulls("percent").select("method", "percent").iter_rows():
        if method not in but:
            assert ours[TRAINED_AS.get(method, method)] == pytest.approx(percent, rel=0.011, abs=0.0005), method


def test_memory_of_seven_billion_parameters(llama: pl.DataFrame) -> None:
    state = dict(llama.filter(pl.col("num_experts") == 3).select("method", "state_gib").iter_rows())
    assert state["full"] == pytest.approx(16 * 6_738_415_616 / 2**30)
    # Two bytes for each frozen parameter, sixteen for each of LoRA's 4,194,304.
    assert state["lora_r8"] == pytest.approx((2 * 6_738_415_616 + 16 * 4_194_304) / 2**30)


def test_four_bits_take_a_quarter() -> None:
    frozen = [
        method_sizes(BaseModel(name=str(LLAMA), load_in_4bit=bits), ["ia3"], MethodConfig())["state_gib"][0]
        for bits in (False, True)
    ]
    assert frozen[1] == pytest.approx(frozen[0] / 4, rel=0.01)


def test_a_method_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MethodError, match="got 'query'"):
        method_sizes(BaseModel(name=str(LLAMA)), ["lora_r8"], MethodConfig(target_modules=("query",)))
    with pytest.raises(MethodError, match="num_experts of at least 2 for without_gate, got 1"):
        method_sizes(BaseModel(name=str(LLAMA)), ["lora_r8", "without_gate"], MethodConfig(num_experts=1))
