"""Harvesting installed packages: each task on a small hand-made distribution, then on real ones."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from analysis.sources import PackagesSource, SourceError, read_source
from analysis.sources.packages import HARVESTERS, MAX_COMPLETION, MAX_PROMPT, _choose

MODULE = '''
"""A module."""
raise SystemExit("imported")  # a harvest must never run this


class Shape:
    """A figure in the plane with straight sides.

    >>> x = 2
    >>> Shape(x).area()
    4
    >>> Shape(3).area()
    9
    """

    def grow(self, factor, centre=None):
        """Multiply every side of the shape by the same factor.
        """
        if factor <= 0:
            raise ValueError(f"factor must be a positive number, got {factor}")
        return Shape(self.side * factor)


def perimeter(shape):
    """Add up the lengths of all sides of a shape."""
    # sides are equal
    return 4 * shape.side
'''
LICENCE = """Apache License, Version 2.0

You may reproduce and distribute copies of the Work or Derivative Works thereof in any medium, with or
without modifications, and in Source or Object form, provided that You meet the following conditions.

Short.
"""
METADATA = """Metadata-Version: 2.1
Name: toyshapes
Version: 1.2
Summary: Shapes for toys
License-Expression: Apache-2.0
Description-Content-Type: text/markdown

# toyshapes

[toyshapes](https://example.org) draws squares, triangles and other figures for people who like to play. It has
no dependencies, runs everywhere, and was written on a rainy afternoon in November.

## Nothing much

Short.

## Drawing a square

Call `Shape(2)` and then `draw`. The square appears in a window, and it stays there until the window is closed or
the program ends. Squares of negative size are refused with an error.
"""


@pytest.fixture
def toyshapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution `toyshapes` that importlib.metadata finds."""
    files = {
        "toyshapes/shape.py": MODULE,
        "toyshapes/broken.py": "def (",
        "toyshapes/tests/test_shape.py": MODULE,
        "toyshapes-1.2.dist-info/LICENSE": LICENCE,
        "toyshapes-1.2.dist-info/METADATA": METADATA,
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    record = "".join(f"{name},,\n" for name in files)
    (tmp_path / "toyshapes-1.2.dist-info/RECORD").write_text(record)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def harvest(toyshapes: Path) -> Callable[..., list[tuple[str, str]]]:
    def read(*tasks: str) -> list[tuple[str, str]]:
        table = read_source("p", PackagesSource(("toyshapes",), tasks)).collect()
        assert table["source"].unique().is_in([f"p/{task}" for task in tasks]).all()
        return sorted(table.select("prompt", "completion").rows())

    return read


Harvest = Callable[..., list[tuple[str, str]]]


def test_a_function_is_summarised_or_completed_but_never_both(harvest: Harvest) -> None:
    records = harvest("docstring", "code")
    assert len(records) == 2
    expected = {
        ("Summarise", "perimeter"): (
            "Add up the lengths of all sides of a shape.",
            "    # sides are equal\n    return 4 * shape.side",
        ),
        ("Complete", "perimeter"): (
            "    # sides are equal\n    return 4 * shape.side",
            '"""Add up the lengths of all sides of a shape."""',
        ),
    }
    [(prompt, completion)] = [record for record in records if "perimeter" in record[0]]
    answer, context = expected[prompt.split(" ")[0], "perimeter"]
    assert completion == answer
    assert context in prompt
    assert answer.strip() not in prompt


def test_doctest_stops_at_the_first_output(harvest: Harvest) -> None:
    session = ">>> x = 2\n>>> Shape(x).area()"
    assert harvest("doctest") == [(f"What does the last line of this session print?\n\n{session}", "4")]


def test_licence_clause_is_named_or_continued(harvest: Harvest) -> None:
    [(prompt, completion)] = harvest("licence")
    clause = " ".join(LICENCE.split("\n\n")[1].split())
    if completion == "Apache-2.0":
        assert prompt == f"From which software licence is this clause?\n\n{clause}"
    else:
        head = prompt.removeprefix("Continue this clause of a software licence (Apache-2.0).\n\n")
        assert f"{head} {completion}" == clause


def test_readme_sections(harvest: Harvest) -> None:
    (project, summary), (section, heading) = harvest("readme")
    assert (summary, heading) == ("Shapes for toys", "Drawing a square")
    assert project.startswith("Describe this project in one line.\n\ntoyshapes draws squares")  # the link is gone
    assert "Squares of negative size" in section


def test_labels_of_a_record(toyshapes: Path) -> None:
    record = read_source("p", PackagesSource(("ToyShapes",), ("doctest",))).collect().row(0, named=True)
    assert record["source"] == "p/doctest"
    assert record["task"] == "predict_output"
    assert record["licence"] == "Apache-2.0"
    assert record["origin"] == "toyshapes 1.2: toyshapes/shape.py"


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"tasks": ("doctests",)}, r"unknown tasks \['doctests'\]; expected some of \['code'"),
        ({"max_documents_per_task": 0}, "max_documents_per_task must be at least 1, got 0"),
    ],
)
def test_configuration_is_checked(config: dict[str, object], error: str) -> None:
    with pytest.raises(SourceError, match=error):
        PackagesSource(**config)  # type: ignore[arg-type]


def test_nothing_to_harvest_is_an_error(toyshapes: Path) -> None:
    with pytest.raises(SourceError, match=r"source 'p': none of the distributions \['no-such-package'\] is installed"):
        read_source("p", PackagesSource(("no-such-package",)))
    (toyshapes / "toyshapes/shape.py").write_text("")
    with pytest.raises(SourceError, match="hold nothing of these tasks"):
        read_source("p", PackagesSource(("toyshapes",), ("doctest",)))


def test_no_distribution_fills_a_task_alone() -> None:
    def chosen(sizes: dict[str, int], limit: int) -> dict[str, int]:
        candidates = [
            (name, {"prompt": f"{name}{i}", "completion": "c"}) for name, size in sizes.items() for i in range(size)
        ]
        origins = [str(record["prompt"])[0] for record in _choose([*candidates, *candidates], limit)]  # type: ignore[list-item]
        return {name: origins.count(name) for name in sizes}

    assert chosen({"a": 100}, 20) == {"a": 20}
    assert chosen({"a": 100, "b": 2}, 20) == {"a": 10, "b": 2}
    assert chosen(dict.fromkeys("abcdefgh", 100), 20)["a"] <= 5
    assert sum(chosen(dict.fromkeys("abcdefgh", 100), 20).values()) == 20


REAL = ("dataframely", "networkx", "numpy", "packaging", "scikit-learn")


def test_real_packages_give_every_task_without_being_imported_and_always_the_same() -> None:
    script = (
        "import hashlib, sys\n"
        "from analysis.sources import PackagesSource, read_source\n"
        f"table = read_source('p', PackagesSource({REAL!r}, max_documents_per_task=50)).collect()\n"
        "assert not {'networkx', 'sklearn'} & set(sys.modules)\n"
        "print(table.write_ndjson(), end='')\n"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    table = pl.read_ndjson(outputs[0])
    per_task = dict(table.group_by("source").len().iter_rows())
    assert set(per_task) == {f"p/{task}" for task in HARVESTERS}
    assert min(per_task.values()) >= 20
    assert max(per_task.values()) <= 50
    assert table["prompt"].str.len_chars().max() <= MAX_PROMPT  # type: ignore[operator]
    assert table["completion"].str.len_chars().max() <= MAX_COMPLETION  # type: ignore[operator]
    assert table.select("prompt", "completion").is_unique().all()


@pytest.mark.slow
def test_the_default_corpus_has_thousands_of_records_of_every_task() -> None:
    table = read_source("packages", PackagesSource()).collect()
    per_task = dict(table.group_by("source").len().iter_rows())
    assert len(per_task) == len(HARVESTERS)
    assert min(per_task.values()) >= 300
    assert len(table) >= 3_000
