"""Which runs a design of the study of experts needs: rates by validation documents, then seeds at the best.

A design is tried at three rates with one seed. While the best rate is the least or the greatest tried, the next one is
tried too. All seeds then run at the rate of least validation loss. The plan is made anew after every run, from records
alone, so that a study that was killed goes on where it was. Test documents decide nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experts_runs import TOKENS_PER_STEP, Arm, Run

SEEDS = (1, 2, 3, 4, 5)
STEP = 1.6  # between rates that are tried beyond the first three
LARGEST_NUMBER_OF_RATES = 6
MIXES = tuple(TOKENS_PER_STEP)
# Three rates to begin with. All but those of plain LoRA, and of a few others, were tried by an earlier part.
EXPERT_RATES = {"six": (8e-4, 1.2e-3, 1.8e-3), "exams": (4e-4, 7e-4, 1.2e-3), "flan": (7e-4, 1.2e-3, 2e-3)}
LORA_PLUS_RATES = {"six": (7e-4, 1e-3, 1.5e-3), "exams": (4e-4, 7e-4, 1e-3), "flan": (4e-4, 7e-4, 1e-3)}
LORA_RATES = {"six": (1.6e-3, 2.5e-3, 4e-3), "exams": (1e-3, 1.6e-3, 2.5e-3), "flan": (1e-3, 1.6e-3, 2.5e-3)}
ROUTER_RATES = dict.fromkeys(MIXES, (1e-3, 2e-3, 4e-3))
FULL_RATES = {"six": (6e-5, 1e-4, 1.6e-4), "exams": (1.5e-5, 4e-5, 1e-4), "flan": (1.5e-5, 4e-5, 1e-4)}

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Design:
    """An arm without its rate, the rates it begins with on each mix, and how many seeds it gets at the best."""

    arm: Arm
    rates: Mapping[str, tuple[float, ...]]
    seeds: int = 5

    def runs(self, mix: str, records: Records) -> list[Run]:
        """Runs of the rates; and, as soon as these are known, of all seeds at the best."""
        tried, best = self.tuned(mix, records)
        trials = [self.run(mix, rate, SEEDS[0]) for rate in tried]
        return trials + ([self.run(mix, best, seed) for seed in SEEDS[: self.seeds]] if best else [])

    def tuned(self, mix: str, records: Records) -> tuple[list[float], float | None]:
        """Rates to try, and the best if all are known and a worse one lies on each side (or there are too many)."""
        rates = sorted(self.rates[mix])
        while True:
            losses = [validation_loss(records.get(self.run(mix, rate, SEEDS[0]).key)) for rate in rates]
            if None in losses:
                return rates, None
            best = min(range(len(rates)), key=lambda i: losses[i] or 0.0)
            if 0 < best < len(rates) - 1 or len(rates) >= LARGEST_NUMBER_OF_RATES:
                return rates, rates[best]
            beyond = rates[0] / STEP if best == 0 else rates[-1] * STEP
            rates = sorted([*rates, float(f"{beyond:.2g}")])

    def run(self, mix: str, rate: float, seed: int) -> Run:
        return Run(mix, replace(self.arm, learning_rate=rate), seed)


def validation_loss(record: Mapping[str, Any] | None) -> float | None:
    """Macro loss of validation documents, under the groups that count."""
    return None if record is None else float(next(iter(record["loss"].values()))["validation"]["macro"])


def split(groups: str, *held_out: str, shared_rank: int = 16, seeds: int = 5) -> Design:
    """A split on these groups. Held-out documents get theirs as given, else from the hidden state and from words."""
    told = held_out or (groups, f"{groups}_text")
    return Design(Arm("split", 0.0, groups, told, shared_rank=shared_rank), EXPERT_RATES, seeds)


LORA_PLUS = Design(Arm("lora", 0.0), LORA_PLUS_RATES)
LORA = Design(Arm("lora", 0.0, ratio=1.0), LORA_RATES)
BY_SOURCE = split("source", "source_text", "source")
BY_HIDDEN, BY_SIX_HIDDEN = split("hidden_elbow"), split("hidden_k6")
# A training document's answer helps to find its group; words of the prompt tell that of a held-out document.
BY_JOINT, BY_SIX_JOINT = (split(name, f"{name}_text") for name in ("joint_elbow", "joint_k6"))
FIRST = {
    "six": (LORA_PLUS, BY_SIX_HIDDEN, BY_SOURCE, BY_SIX_JOINT, split("hidden_elbow", seeds=3), LORA),
    "exams": (LORA_PLUS, BY_HIDDEN, LORA),
    "flan": (LORA_PLUS, BY_HIDDEN, BY_SOURCE, LORA, BY_JOINT),
}


def _tag(groups: str, *held_out: str) -> Design:
    return Design(Arm("tag", 0.0, groups, held_out), LORA_PLUS_RATES, 3)


HONEST = {
    "six": (
        _tag("source", "source_text", "source"),
        _tag("hidden_k6", "hidden_k6", "hidden_k6_text"),
        split("random_k6", "random_k6", seeds=3),
        split("lsa_k6", "lsa_k6", seeds=3),
        Design(Arm("each", 0.0, "source", ("source_text", "source")), LORA_PLUS_RATES, 3),
        Design(Arm("balanced", 0.0), LORA_PLUS_RATES, 3),
        Design(Arm("router", 0.0), ROUTER_RATES, 3),
        Design(Arm("full", 0.0), FULL_RATES, 3),
        Design(Arm("shared", 0.0, "source", ("source_text", "source")), EXPERT_RATES, 3),
    ),
    "exams": (
        _tag("hidden_elbow", "hidden_elbow", "hidden_elbow_text"),
        split("random_k6", "random_k6", seeds=3),
        Design(Arm("each", 0.0, "source", ("source_text", "source")), LORA_PLUS_RATES, 3),
        Design(Arm("router", 0.0), ROUTER_RATES, 3),
        Design(Arm("full", 0.0), FULL_RATES, 3),
    ),
    "flan": (
        _tag("source", "source_text", "source"),
        _tag("hidden_elbow", "hidden_elbow", "hidden_elbow_text"),
        split("random_k6", "random_k6", seeds=3),
        Design(Arm("router", 0.0), ROUTER_RATES, 3),
        Design(Arm("full", 0.0), FULL_RATES, 3),
    ),
}


def of_designs(designs: Mapping[str, tuple[Design, ...]], mixes: Sequence[str], records: Records) -> Iterator[Run]:
    """Runs of all mixes in turn, so that none waits for another to end."""
    lists = [[run for design in designs[mix] for run in design.runs(mix, records)] for mix in mixes]
    for place in range(max(map(len, lists), default=0)):
        yield from (of_mix[place] for of_mix in lists if place < len(of_mix))
