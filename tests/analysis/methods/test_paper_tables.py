"""Tables beside the paper's: the right printed value in the right place, and the paper's own sums."""

import polars as pl
import pytest

from analysis.figures import png
from analysis.figures.paper import clusters_and_losses, heterogeneity_gaps
from analysis.methods import paper
from analysis.methods.paper_tables import cost_markdown, domain_markdown, domain_table, plain_markdown


def losses() -> pl.DataFrame:
    """Two domains, three trainings; each loss of a document of one token is the method's."""
    rows = [
        (domain, method, n, 0, "s", "t", document, value + shift, 1)
        for domain, shift in (("general", 0.0), ("law", 1.0))
        for method, n, value in (("base", 3, 4.0), ("lora_r32", 3, 2.0), ("lora_r8", 3, 3.0), ("hydralora", 2, 9.0))
        for document in ("a", "b")
    ]
    columns = ("domain", "method", "num_experts", "seed", "source", "task", "document_id", "loss", "n_tokens")
    return pl.DataFrame(rows, schema=columns, orient="row")


SIZES = pl.DataFrame(
    {
        "method": ["lora_r8", "lora_r32", "lora_r8"],
        "num_experts": [3, 3, 10],
        "n_parameters": [8, 32, 8],
        "percent_without_router": [0.1, 0.4, 0.1],
    }
)
SCORES = pl.DataFrame(
    {
        "domain": ["general"],
        "method": ["lora_r32"],
        "benchmark": ["mmlu"],
        "value": [0.26],
        "stderr": [0.01],
        "chance": [0.25],
    }
)


def test_rows_that_share_a_training_share_its_numbers_and_keep_their_own_printed_value() -> None:
    methods = {"base": "base", "lora_r8": "lora_r8", "lora_r32": "lora_r32", "lora_split_8x4": "lora_r32"}
    table = domain_table(losses(), methods, 3, "lora_r8", paper.TABLE_2, SIZES, benchmarks=SCORES, resamples=10)
    assert table["domain"].unique(maintain_order=True).to_list() == ["general", "law"]
    rows = {(row["domain"], row["method"]): row for row in table.iter_rows(named=True)}
    assert len(rows) == 8
    assert rows["law", "lora_split_8x4"]["loss"] == rows["law", "lora_r32"]["loss"] == 3.0
    assert (rows["law", "lora_split_8x4"]["printed"], rows["law", "lora_r32"]["printed"]) == (41.35, 40.81)
    assert rows["general", "lora_split_8x4"]["difference"] == pytest.approx(-1.0)
    assert rows["general", "base"]["n_parameters"] is None
    assert (rows["general", "lora_r32"]["percent"], rows["general", "lora_r32"]["percent_printed"]) == (0.4, 0.248)
    assert rows["general", "lora_split_8x4"]["score"] == 0.26
    untrained = (pl.col("domain") == "law") & (pl.col("method") == "lora_r32")
    text = domain_markdown(
        domain_table(losses().filter(~untrained), methods, 3, "lora_r8", paper.TABLE_2, SIZES, resamples=10), "lora_r8"
    )
    assert text.splitlines()[4].endswith("seeds: 1; (46.59) |  | 0.400 (0.248) |")
    tuned = losses().filter(~((pl.col("domain") == "law") & (pl.col("method") == "lora_r8")))
    assert set(domain_table(tuned, methods, 3, "lora_r8", paper.TABLE_2, SIZES, resamples=10)["domain"]) == {"general"}
    text = domain_markdown(table, "lora_r8")
    minus_one = "-1.0000 [-1.0000, -1.0000]"
    score = "mmlu 26.0 ± 1.0, chance 25"
    assert f"| lora_split_8x4 | 2.0000; {minus_one}; {minus_one}; seeds: 1; {score}; (46.94) |" in text
    assert text.splitlines()[0] == "|  | general | law | %Param ours (paper) |"


def test_printed_numbers_agree_with_each_other() -> None:
    """Rows that the paper prints in two tables, and its means."""
    in_two = paper.TABLE_1.join(paper.TABLE_2, on="method").filter(pl.col("method") != "lora_split_8x4")
    assert in_two["general"].to_list() == in_two["general_right"].to_list()
    ablations = dict(paper.TABLE_5.select("method", "law").iter_rows())
    methods = dict(paper.TABLE_2.select("method", "law").iter_rows())
    assert ablations["without_moe"] == methods["lora_r8"]
    assert ablations["without_hydra"] == methods["lora_split_8x4"]


def test_costs_beside_the_papers() -> None:
    ours = pl.DataFrame(
        {
            "method": ["lora_r8"],
            "cpu_kwh": [0.5],
            "gpu_kwh": [None],
            "ram_kwh": [0.25],
            "hours": [1.5],
            "tokens_per_second": [1000.0],
            "peak_memory_gib": [2.0],
        }
    )
    text = cost_markdown(ours.join(paper.TABLE_4, on="method", suffix="_printed"))
    assert "| lora_r8 | 0.50000 (0.058) |  (0.636) | 0.25000 (0.063) | 1.50000 (1.358) | 1,000 | 2.00 |" in text


def test_figures_are_the_same_bytes_each_time() -> None:
    gaps = pl.DataFrame(
        {
            "domain": ["general", "law"],
            "index": [0.2, 0.5],
            "method": ["hydralora", "full"],
            "difference": [-0.1, 0.1],
            "difference_low": [-0.2, 0.0],
            "difference_high": [0.0, 0.2],
        }
    )
    sweep = pl.DataFrame({"n_clusters": [1, 2, 3], "inertia": [3.0, 2.0, 1.5]})
    by_n = pl.DataFrame(
        {
            "num_experts": [1, 2],
            "difference": [None, -0.1],
            "difference_low": [None, -0.2],
            "difference_high": [None, 0.0],
        }
    )
    for draw in (lambda: heterogeneity_gaps(gaps), lambda: clusters_and_losses(sweep, by_n)):
        assert png(draw().figure) == png(draw().figure)
    assert plain_markdown(by_n).splitlines()[2] == "| 1 |  |  |  |"
