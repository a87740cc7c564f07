"""Pages whose tables are typed: each difference with its interval stands in the page's JSON files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
RESULTS = REPOSITORY / "benchmarks" / "results"
DIFFERENCE = re.compile(r"[+-]\d\.\d{4} \[[+-]\d\.\d{4}, [+-]\d\.\d{4}\]")
EXPERTS = ("experts_study", "experts_first_draw", "experts_study_padded", "experts_earlier", "experts_benefit")


def triples(value: Any) -> Iterator[list[float]]:
    """All lists of three numbers in a JSON value."""
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if isinstance(value, list) and len(value) == 3 and all(isinstance(part, float) for part in value):
        yield value
    for part in parts:
        yield from triples(part)


@pytest.mark.parametrize(
    ("page", "names", "fewest"),
    [
        ("docs/results/experts.md", EXPERTS, 100),
        ("docs/results/mixing.md", ("mixing_study",), 16),
        ("README.md", EXPERTS, 10),
    ],
)
def test_each_difference_of_a_page_stands_in_its_results(page: str, names: tuple[str, ...], fewest: int) -> None:
    found = set()
    for name in names:
        for middle, low, high in triples(json.loads((RESULTS / f"{name}.json").read_text())):
            found.add(f"{middle:+.4f} [{low:+.4f}, {high:+.4f}]")
            found.add(f"{-middle:+.4f} [{-high:+.4f}, {-low:+.4f}]")
    typed = DIFFERENCE.findall((REPOSITORY / page).read_text().replace("\n", " "))
    assert len(typed) >= fewest
    assert set(typed) <= found
