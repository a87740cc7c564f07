"""Parameter counts against the paper's tables: LLaMA2-7B's shapes on the meta device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from hydralora import HydraLoraConfig
from hydralora.methods import MethodConfig, adapt, get_method
from hydralora.methods.parameters import ParameterCounts, count_parameters, expected_parameters, print_parameters

BASE = 6_738_415_616
# q and v of 32 layers are 4096 x 4096, so one rank of one LoRA has this many parameters.
PER_RANK = 64 * (4096 + 4096)

# Method, settings, parameters without the router, router, and %Param as printed. The paper's larger figures are
# multiples of its rounded 0.062 (48 x 0.062 = 2.976, exact is 2.988); its prefix tuning is cut, not rounded, and its
# P-tuning needs more virtual tokens than the 20 counted here.
PAPER = [
    ("lora_r8", {}, 8 * PER_RANK, 0, 0.062),
    ("lora_r16", {}, 16 * PER_RANK, 0, 0.124),
    ("lora_r32", {}, 32 * PER_RANK, 0, 0.248),
    ("lora_split_16x2", {}, 16_777_216, 0, 0.248),
    ("lora_split_8x4", {}, 16_777_216, 0, 0.248),
    ("lora_split_4x8", {}, 16_777_216, 0, 0.248),
    ("hydralora", {"num_experts": 3}, 8_388_608, 64 * 3 * 8, 0.124),
    ("hydralora", {"num_experts": 10}, 23_068_672, 64 * 10 * 8, 0.341),
    ("without_moe", {}, 4_194_304, 0, 0.062),
    ("without_gate", {"num_experts": 3}, 8_388_608, 0, 0.124),
    ("without_hydra", {"num_experts": 4}, 16_777_216, 64 * 4 * 4 * 8, 0.248),
    ("lora_moe", {"num_experts": 48}, 48 * 8 * PER_RANK, 64 * 48 * 4096, 2.976),
    ("adalora", {"total_steps": 100}, 12 * PER_RANK + 64 * 12, 0, 0.093),
    ("ia3", {}, 32 * (4096 + 4096 + 11008), 0, 0.009),
    ("prefix_tuning", {}, 5_242_880, 0, 0.077),
    ("prompt_tuning", {}, 81_920, 0, 0.001),
    ("p_tuning", {}, 12_939_776, 0, 0.193),
    ("full", {}, BASE, 0, 100.0),
]


@pytest.fixture(scope="module")
def llama2_7b() -> Callable[[], LlamaForCausalLM]:
    def make() -> LlamaForCausalLM:
        with torch.device("meta"):
            return LlamaForCausalLM(LlamaConfig(num_hidden_layers=32))  # other defaults are LLaMA-7B's

    return make


@pytest.mark.parametrize(("name", "settings", "parameters", "router", "printed"), PAPER)
def test_rows_of_the_paper(
    llama2_7b: Callable[[], LlamaForCausalLM],
    name: str,
    settings: dict[str, Any],
    parameters: int,
    router: int,
    printed: float,
) -> None:
    model = llama2_7b()
    expected = get_method(name).parameters(model, MethodConfig(**settings))
    with torch.device("meta"):
        counted = count_parameters(adapt(model, name, MethodConfig(**settings)))
    assert counted == expected
    assert (counted.total - counted.router, counted.router, counted.base) == (parameters, router, BASE)
    assert counted.percent_without_router == pytest.approx(printed, rel=0.011, abs=0.0005)


def test_lorahub_counts_all_its_loras(llama2_7b: Callable[[], LlamaForCausalLM]) -> None:
    counts = get_method("lorahub").parameters(llama2_7b(), MethodConfig(num_experts=20))
    assert counts.total == 20 * 8 * PER_RANK
    assert counts.percent == pytest.approx(1.240, rel=0.01)


def test_authors_targets(llama2_7b: Callable[[], LlamaForCausalLM]) -> None:
    """Their shipped configuration adapts gate, up and down and reads the layer's input: six times the printed size."""
    settings = MethodConfig(target_modules=("gate_proj", "up_proj", "down_proj"), router_input="hidden")
    counts = get_method("hydralora").parameters(llama2_7b(), settings)
    assert counts.percent_without_router == pytest.approx(0.371, abs=0.0005)
    assert counts.router == 32 * 3 * (4096 + 4096 + 11008)


VARIANTS = {
    "hydralora": HydraLoraConfig(num_experts=3, target_modules="all-linear"),
    "patterns": HydraLoraConfig(r=4, target_modules=["q_proj", "down_proj"], rank_pattern={"down_proj": 2}),
    "hidden router": HydraLoraConfig(router_input="hidden", target_modules=["v_proj"]),
    "shared expert": HydraLoraConfig(num_experts=2, shared_expert=True, target_modules=["v_proj"]),
    "shared LoRA": HydraLoraConfig(r=3, num_experts=2, shared_rank=5, target_modules=["v_proj"]),
    "shared LoRA, one A each": HydraLoraConfig(
        num_experts=2, shared_rank=5, shared_a=False, target_modules=["v_proj"], rank_pattern={"0.self_attn.v_proj": 2}
    ),
    "one A each": HydraLoraConfig(num_experts=2, shared_a=False, shared_expert=True, target_modules=["v_proj"]),
    "modules_to_save": LoraConfig(target_modules=["v_proj"], modules_to_save=["lm_head"]),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_closed_form_equals_the_model(tiny_llama: Callable[..., LlamaForCausalLM], config: Any) -> None:
    model = tiny_llama()
    expected = expected_parameters(config, model)
    adapted = get_peft_model(model, config)
    assert count_parameters(adapted) == expected
    assert expected.total == adapted.get_nb_trainable_parameters()[0]


def test_by_hand(tiny_llama: Callable[..., LlamaForCausalLM]) -> None:
    """v_proj is 32 -> 16 in two layers: A is 4 x 32, each of 2 + 1 experts 16 x 4, the router 2 x 4."""
    config = HydraLoraConfig(r=4, num_experts=2, shared_expert=True, target_modules=["v_proj"])
    model = tiny_llama()
    base = model.num_parameters()
    counts = count_parameters(get_peft_model(model, config))
    assert counts == ParameterCounts(base=base, a=2 * 128, b=2 * 128, router=2 * 8, shared_expert=2 * 64)
    assert counts.total == 656


def test_other_adapters_do_not_count(hydra_llama: Callable[..., PeftModel]) -> None:
    model = hydra_llama(num_experts=2)
    before = count_parameters(model)
    model.add_adapter("second", HydraLoraConfig(r=4, num_experts=5, target_modules="all-linear"))
    assert count_parameters(model) == before
    assert count_parameters(model, "second").b == 5 / 2 * before.b
    with pytest.raises(ValueError, match=r"one of the adapters \['default', 'second'\], got 'third'"):
        count_parameters(model, "third")


def test_report_shows_the_router_apart(
    hydra_llama: Callable[..., PeftModel], capsys: pytest.CaptureFixture[str]
) -> None:
    print_parameters(hydra_llama(num_experts=2, target_modules=["v_proj"]))
    assert "adapter parameters: 528 (A 256 + B 256 + router 16) || base" in capsys.readouterr().out
