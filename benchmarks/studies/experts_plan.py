"""Which runs the study of experts needs next. The plan is made anew after every run, from records alone.

**Rates.** A design is tried at three rates or more, until a worse one lies on each side of the best. The score of a
rate is the loss of validation documents, mean of macro and token, over the same three seeds for all. A rate whose first
seed is worse than the best by more than `MARGIN` gets no further ones. Test documents decide nothing.

**Seeds.** The better LoRA and the better split by this score get ten: of those that are tuned by now, so that a last
rate that is far off holds nothing up.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

from experts_runs import TOKENS_PER_STEP, Arm, Run
from run_records import read_records

SEEDS = tuple(range(1, 11))
TRIALS = SEEDS[:3]
STEP = 1.6  # between rates that are tried beyond the first three
LARGEST_NUMBER_OF_RATES = 6
MIXES = tuple(TOKENS_PER_STEP)
# Above three standard deviations, over seeds, of the difference between two rates of one design.
MARGIN = {"six": 0.006, "exams": 0.006, "flan": 0.02}
PLUS_RATES = {"six": (8e-4, 1.2e-3, 1.8e-3), "exams": (4e-4, 7e-4, 1.2e-3), "flan": (7e-4, 1.2e-3, 2e-3)}
PLAIN_RATES = {"six": (1.6e-3, 2.5e-3, 4e-3), "exams": (1e-3, 1.6e-3, 2.5e-3), "flan": (1e-3, 1.6e-3, 2.5e-3)}
MIXED_RATES = {"six": (1.2e-3, 1.8e-3, 2.9e-3), "exams": (7e-4, 1.2e-3, 1.9e-3), "flan": (1.2e-3, 2e-3, 3.2e-3)}
LORA_PLUS_RATES = {"six": (7e-4, 1e-3, 1.5e-3), "exams": (4e-4, 7e-4, 1e-3), "flan": (4e-4, 7e-4, 1e-3)}
ROUTER_RATES = dict.fromkeys(MIXES, (1e-3, 2e-3, 4e-3))
FULL_RATES = {"six": (6e-5, 1e-4, 1.6e-4), "exams": (4e-5, 1e-4, 1.6e-4), "flan": (1.5e-5, 4e-5, 1e-4)}

# Groups of an earlier version: those of the hidden state and the answer were made by other code, and agree with the
# product's (normalised mutual information 0.97 on "six", 1.00, 0.91). On "exams" both views find the sources.
NAMES_BEFORE = {
    "six": {"joint_elbow": "joint", "random_k6": "random"},
    "exams": {"hidden_elbow": "joint", "random_k6": "random"},
    "flan": {"joint_elbow": "joint", "random_k6": "random"},
}

Score = Callable[[Run], float | None]
Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Design:
    """An arm without its rate, and the rates it begins with on each mix."""

    arm: Arm
    rates: Mapping[str, tuple[float, ...]]

    def tuned(self, mix: str, score: Score) -> tuple[list[Run], Arm | None]:
        """Runs that choose the rate, as far as scores tell them; and the best arm as soon as it is known."""
        rates = sorted(self.rates[mix])
        while True:
            first = {rate: score(self._run(mix, rate, TRIALS[0])) for rate in rates}
            known = [value for value in first.values() if value is not None]
            if len(known) < len(rates):
                return [self._run(mix, rate, TRIALS[0]) for rate in rates], None
            near = [rate for rate, value in first.items() if value is not None and value <= min(known) + MARGIN[mix]]
            trials = {rate: [self._run(mix, rate, seed) for seed in TRIALS] for rate in near}
            means = {rate: mean(score, runs) for rate, runs in trials.items()}
            wanted = list(chain.from_iterable(trials.values()))
            if None in means.values():
                return wanted, None
            best = min(means, key=lambda rate: means[rate] or 0.0)
            if 0 < rates.index(best) < len(rates) - 1 or len(rates) >= LARGEST_NUMBER_OF_RATES:
                return wanted, replace(self.arm, learning_rate=best)
            beyond = rates[0] / STEP if best == rates[0] else rates[-1] * STEP
            rates = sorted([*rates, float(f"{beyond:.2g}")])

    def _run(self, mix: str, rate: float, seed: int) -> Run:
        return Run(mix, replace(self.arm, learning_rate=rate), seed)


def splits(groups: str) -> tuple[Design, Design, Design]:
    """A split on these groups with rates of LoRA+, with plain ones, and with plain ones for the always-on part only."""
    arm = Arm("split", 0.0, groups)
    return (
        Design(arm, PLUS_RATES),
        Design(replace(arm, ratio=1.0), PLAIN_RATES),
        Design(replace(arm, shared_scale=0.25), MIXED_RATES),
    )


LORAS = (Design(Arm("lora", 0.0), LORA_PLUS_RATES), Design(Arm("lora", 0.0, ratio=1.0), PLAIN_RATES))
OWN = "joint"  # groups of the headline, at their own elbow
TFIDF, WORDS = "tfidf", "joint_words"


def _tag(groups: str) -> Design:
    return Design(Arm("tag", 0.0, groups), LORA_PLUS_RATES)


_ROUTER, _FULL = Design(Arm("router", 0.0), ROUTER_RATES), Design(Arm("full", 0.0), FULL_RATES)
_EACH = Design(Arm("each", 0.0, "source", ("source_text", "source")), LORA_PLUS_RATES)
_RANDOM, _SOURCE = (Design(Arm("split", 0.0, groups), PLUS_RATES) for groups in ("random", "source"))
HONEST = {
    "six": (_ROUTER, _tag("source"), _tag(OWN), _EACH, _FULL, _RANDOM, Design(Arm("balanced", 0.0), LORA_PLUS_RATES)),
    "exams": (_EACH, _FULL, _ROUTER, _tag(OWN)),
    "flan": (_ROUTER, _tag("source"), _tag(OWN), _FULL, _RANDOM),
}


def read_earlier(path: Path) -> dict[str, dict[str, Any]]:
    """Earlier runs, under the names that their arms and groups have now; some have no losses of documents."""
    found = {}
    for record in read_records(path).values():
        names = NAMES_BEFORE[record["mix"]]
        arm = " ".join(names.get(word, word) for word in record["arm"].split(" "))
        key = f"{record['mix']} | {arm} | seed {record['seed']}"
        found[key] = record | {"arm": arm, "key": key}
        for field in ("loss", "document_losses"):  # of groups, those that words of the prompt tell
            of = record.get(field, {})
            told = {names.get(g.removesuffix("_text"), g): of[g] for g in of if f"{g}_text" not in of or g not in names}
            found[key][field] = told
    return found


def scores(records: Records, earlier: Records) -> Score:
    """Validation loss of a run, mean of macro and token. A rerun of an earlier run does not choose again."""

    def score(run: Run) -> float | None:
        record = earlier.get(run.key) or records.get(run.key)
        if record is None:
            return None
        found = next(iter(record["loss"].values()))["validation"]
        return float(found["macro"] + found["token"]) / 2

    return score


def mean(score: Score, runs: Sequence[Run]) -> float | None:
    """Mean score, None while one is missing."""
    scores = [value for run in runs if (value := score(run)) is not None]
    return fmean(scores) if len(scores) == len(runs) else None


def tuned(designs: Sequence[Design], mix: str, score: Score) -> list[Arm]:
    """Arms of these designs whose rate is chosen."""
    return [arm for design in designs if (arm := design.tuned(mix, score)[1]) is not None]


def leading(designs: Sequence[Design], mix: str, score: Score) -> Arm | None:
    """The best of `tuned`."""
    scores = {arm: mean(score, [Run(mix, arm, seed) for seed in TRIALS]) for arm in tuned(designs, mix, score)}
    return min(scores, key=lambda arm: scores[arm] or 0.0, default=None)


def best(designs: Sequence[Design], mix: str, score: Score) -> Arm | None:
    """The best arm of these designs; None until all are tuned."""
    return leading(designs, mix, score) if len(tuned(designs, mix, score)) == len(designs) else None


def same_kind(designs: Sequence[Design], arm: Arm) -> Design:
    """The one of these designs whose rates are of the kind of this arm's."""
    return next(d for d in designs if (d.arm.ratio, d.arm.shared_scale) == (arm.ratio, arm.shared_scale))


def planned(score: Score, mixes: Sequence[str]) -> list[Run]:
    """All runs that can be told by now, the most important first, whether or not they are done."""
    own, loras = ({mix: leading(designs, mix, score) for mix in mixes} for designs in (splits(OWN), LORAS))
    headline = {mix: [arm for arm in (loras[mix], own[mix]) if arm] for mix in mixes}
    # The groups of the product's default, and those of words alone, with rates of the kind that was best for `OWN`.
    tfidf, words = (
        {mix: (same_kind(splits(groups), arm),) for mix, arm in own.items() if arm} for groups in (TFIDF, WORDS)
    )

    def arms(designs: Mapping[str, Sequence[Design]]) -> dict[str, list[Arm]]:
        return {mix: tuned(of, mix, score) for mix, of in designs.items()}

    kinds, both_loras = (arms(dict.fromkeys(mixes, designs)) for designs in (splits(OWN), LORAS))
    parts: list[Iterator[Run]] = [
        _seeds({mix: of for mix, of in headline.items() if mix == "flan"}, SEEDS),
        _trials(dict.fromkeys(mixes, (*LORAS, *splits(OWN))), score),
        _seeds(headline, SEEDS),
        _trials(tfidf, score),
        _seeds(arms(tfidf), SEEDS[:5]),
        _trials(words, score),
        _trials({mix: HONEST[mix] for mix in mixes if mix == "six"}, score),
        _seeds(kinds, SEEDS[:5]),
        _seeds(arms(tfidf), SEEDS),
        _seeds(kinds, SEEDS),
        _seeds(arms(words), SEEDS[:5]),
        _trials({mix: HONEST[mix] for mix in mixes if mix != "six"}, score),
        _seeds(both_loras, SEEDS),
        _trials({mix: (_SOURCE,) for mix in mixes if mix != "exams"}, score),
    ]
    return list(dict.fromkeys(chain.from_iterable(parts)))


def planned_for_second_base(score: Score, mixes: Sequence[str]) -> list[Run]:
    """The headline alone: both kinds of LoRA, and the split on the same groups; five seeds at the best rates."""
    designs = (*LORAS, *splits(OWN))
    trials = _trials(dict.fromkeys(mixes, designs), score)
    arms = {mix: tuned(designs, mix, score) for mix in mixes}
    return list(dict.fromkeys(chain(trials, _seeds(arms, SEEDS[:5]))))


def _trials(designs: Mapping[str, Sequence[Design]], score: Score) -> Iterator[Run]:
    """Runs without a score that choose rates; mixes in turn, so that none waits for another to end."""
    lists = [[run for d in of for run in d.tuned(mix, score)[0] if score(run) is None] for mix, of in designs.items()]
    return (run for row in zip_longest(*lists) for run in row if run is not None)


def _seeds(arms: Mapping[str, Sequence[Arm]], seeds: Sequence[int]) -> Iterator[Run]:
    return (Run(mix, arm, seed) for seed in seeds for mix, of in arms.items() for arm in of)
