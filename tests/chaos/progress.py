"""Outcomes of tries in a JSON-lines file, so that a suite of hours can be stopped and goes on where it was."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Try:
    """One thing that may go wrong, by name: `attempt` does it and returns what came out."""

    name: str
    attempt: Callable[[], Outcome]


@dataclass(frozen=True)
class Part:
    """Tries of one kind.

    Attributes:
        tries: `tries(folder, short)`: those of the long or the short form, which work in `folder`.
        summary: figures of all outcomes.
    """

    tries: Callable[[Path, bool], Iterator[Try]]
    summary: Callable[[list[Outcome]], dict[str, Any]]


class Progress:
    """A line for each try that was made: part, name and outcome."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def outcomes(self, part: str) -> dict[str, Outcome]:
        """Name -> outcome of the tries of a part; a line that was cut short does not count."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}}")]
        return {record["try"]: record["outcome"] for record in records if record["part"] == part}

    def make(self, part: str, tries: Iterator[Try]) -> None:
        """Make the tries that were not made yet."""
        for one in tries:
            if one.name in self.outcomes(part):
                continue
            outcome = one.attempt()
            with self._path.open("a") as file:
                file.write(json.dumps({"part": part, "try": one.name, "outcome": outcome}) + "\n")
            print(f"{part} {one.name}: {json.dumps(outcome)[:300]}", flush=True)
