"""Memory that is estimated from shapes, against what was measured on an H200."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from hydralora.training.step.memory_estimate import Estimate, estimate

GIB = 2**30
RESULTS = Path(__file__).parents[4] / "benchmarks" / "results" / "end_to_end_speed.json"
SMALL: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
CONFIGS = {"7B": LlamaConfig(vocab_size=49152), "135M": LlamaConfig(vocab_size=49152, **SMALL)}


def measured() -> list[Any]:
    rows = json.loads(RESULTS.read_text())["rows"]
    return [pytest.param(row, id=row["name"]) for row in rows if row.get("memory") and row["adapter"] != "lora"]


@pytest.mark.parametrize("row", measured())
def test_our_layers_take_what_was_measured(row: dict[str, Any]) -> None:
    memory = row["memory"]
    tokens = round((memory["peak_gib"] - memory["before_gib"]) * 2**20 / memory["kib_per_token"])
    fused = bool(row["fused_modules"])
    before = int(memory["before_gib"] * GIB)
    told = estimate(CONFIGS[row["size"]], tokens, row["trainable"], before, 0, fused=fused, checkpointing=False)
    assert told is not None
    assert told.needed / GIB == pytest.approx(memory["peak_gib"], rel=0.03 if fused else 0.1)


LONGEST = json.loads(RESULTS.with_name("longest_row.json").read_text())["rows"]


@pytest.mark.parametrize("row", [row for row in LONGEST if row["fits"]], ids=lambda row: f"{row['way']} {row['row']}")
def test_rows_of_all_lengths_take_little_less_than_told(row: dict[str, Any]) -> None:
    memory, tokens = row["memory"], row["memory"]["estimate"]["row"]
    before, checkpointing = int(memory["before_gib"] * GIB), row["way"] != "plain"
    told = estimate(CONFIGS["7B"], tokens, 94_400_000, before, 0, fused=True, checkpointing=checkpointing)
    assert told is not None
    # The measured step is the first, in which AdamW's two moments do not exist yet.
    moments = 94_400_000 * 8 / GIB
    assert told.needed / GIB == pytest.approx(memory["peak_gib"] + moments, rel=0.07)


def test_a_row_that_does_not_fit_is_told_with_what_to_do() -> None:
    def told(row: int, **options: bool) -> Estimate:
        result = estimate(
            CONFIGS["7B"], row, 10**8, 14 * GIB, 75 * GIB, **{"fused": True, "checkpointing": False, **options}
        )
        assert result is not None
        return result

    assert told(8192).fits
    assert "8192 tokens" in str(told(8192))
    longest = told(8192).longest_row
    assert told(longest).fits
    assert not told(longest + 1).fits
    assert "gradient_checkpointing: true" in str(told(longest + 1))
    again = told(longest + 1, checkpointing=True)
    assert again.fits
    away = told(longest + 1, checkpointing=True, offloading=True)
    assert away.longest_row > 1.3 * again.longest_row
    assert away.offloaded == (longest + 1) * 32 * 4096 * 2  # the input of each layer
    assert "GiB of the machine's memory; rows" in str(away)


def test_other_kinds_of_models_get_no_estimate() -> None:
    mixture = LlamaConfig(num_local_experts=8)
    assert estimate(mixture, 100, 1, 0, 0, fused=True, checkpointing=False) is None
