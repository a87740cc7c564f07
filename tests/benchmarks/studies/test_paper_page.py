"""The page of the paper's tables is made from the results."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies.paper_page import filled

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = "Text.\n\n<!-- table 1 -->\nold\n<!-- end of table 1 -->\n\nMore.\n"


def row(method: str, difference: float | None, n_seeds: int = 5) -> dict[str, Any]:
    interval: dict[str, Any] = {"difference": difference, "difference_low": None, "difference_high": None}
    if difference is not None:
        interval |= {"difference_low": difference - 0.01, "difference_high": difference + 0.01}
    both = {f"{prefix}{name}": value for prefix in ("", "macro_") for name, value in (interval | {"loss": 2.0}).items()}
    return {"method": method, "n_seeds": n_seeds, "percent": 0.5, "percent_printed": 0.1, "printed": 43.2, **both}


def test_a_table_is_replaced_and_other_text_stays() -> None:
    rows = [row("lora_r8", None), row("lora_r16", 0.005, n_seeds=3), row("lora_r32", -0.02)]
    page = filled(PAGE, {"table_1": rows})
    assert page.startswith("Text.\n\n<!-- table 1 -->\n\n| ")
    assert page.endswith("<!-- end of table 1 -->\n\nMore.\n")
    assert "old" not in page
    assert "| LoRA r=8 | 0.500 (0.1) | 2.0000 | 2.0000 | 43.2 |" in page
    assert "| +0.0050 [-0.0050, +0.0150], 3 seeds | +0.0050 [-0.0050, +0.0150] |" in page
    assert "| **-0.0200 [-0.0300, -0.0100]** | **-0.0200 [-0.0300, -0.0100]** |" in page
    assert filled(page, {"table_1": rows}) == page


def test_an_unknown_or_open_table_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'table 9'"):
        filled(PAGE.replace("table 1", "table 9"), {})
    with pytest.raises(ValueError, match="'<!-- end of table 1 -->' after"):
        filled("<!-- table 1 -->\n", {"table_1": []})


def test_the_page_has_the_figures_of_its_results() -> None:
    page = (REPOSITORY / "docs" / "results" / "paper.md").read_text()
    results = json.loads((REPOSITORY / "benchmarks" / "results" / "paper_study.json").read_text())
    assert filled(page, results) == page
