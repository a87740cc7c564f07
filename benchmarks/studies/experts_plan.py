"""Which runs the study of experts needs next. The plan is made anew after every run, from records alone.

**Rates.** A design is tried at three rates or more, until a worse one lies on each side of the best. The score of a
rate is the loss of validation documents, mean of macro and token, over the same three seeds for all; of rows that lose
by more than rates differ, over the first seed alone (`trials`). A rate whose first seed is worse than the best by more
than `MARGIN` gets no further ones. Test documents decide nothing. Rows beside the headline (`HONEST`) take the rates
that validation documents of an earlier draw of the same mixes chose.

**Seeds.** The better LoRA, the better split by this score, the tail and TF-IDF groups get ten; on "flan" twenty, where
the earlier draw's standard deviation over seeds asked for as many. Other rows get five.

**The tail.** On an earlier draw of "six", joint groups gained half of what true sources gain. The losses by task said
why: nine tenths of what is missing on macro is Flan's, most of it in small tasks with answers of 10 to 30 tokens, which
K-means puts with Dolly's longer answers. Hypothesis: an expert learns what most answer tokens of its group are, so
small tasks need an expert away from large sources. It held on that draw. "wide" and "skills" were made to test it again
where it was not found; arms, fixed before their first run, wherever a mix has a tail:

- `joint_tail`: communities of the graph of nearest neighbours with less than 0.5% of the answer tokens each share one
  expert; all other documents have K-means groups of the elbow's N. Rates and seeds as in the headline.
- `joint_next`: K-means groups of the elbow's N plus one, the control with as many experts.
- on "six", `joint_flan`: joint groups, all of Flan taken out into one more; `source_mixed`: sources, but Dolly's open
  questions stay with MedQuAD's expert; `joint_tail` with an always-on rank of 13, so that experts have rank 4.

The tail becomes the product's default if `joint_tail` beats `joint` on both metrics, with intervals that exclude zero,
on at least one of "wide" and "skills", and loses on none.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from statistics import fmean
from typing import Any

from experts_runs import TOKENS_PER_STEP, Arm, Run

SEEDS = tuple(range(1, 11))
MORE_SEEDS = {"flan": tuple(range(1, 21))}
TRIALS = SEEDS[:3]
STEP = 1.6  # between rates that are tried beyond the first three
LARGEST_NUMBER_OF_RATES = 6
MIXES = tuple(TOKENS_PER_STEP)
# Above three standard deviations, over seeds, of the difference between two rates of one design.
MARGIN = {"six": 0.006, "exams": 0.006, "flan": 0.02, "wide": 0.006, "skills": 0.006}
_NEW = ("wide", "skills")
PLUS_RATES = {"six": (8e-4, 1.2e-3, 1.8e-3), "exams": (4e-4, 7e-4, 1.2e-3), "flan": (7e-4, 1.2e-3, 2e-3)}
PLAIN_RATES = {"six": (1.6e-3, 2.5e-3, 4e-3), "exams": (1e-3, 1.6e-3, 2.5e-3), "flan": (1e-3, 1.6e-3, 2.5e-3)}
MIXED_RATES = {"six": (1.2e-3, 1.8e-3, 2.9e-3), "exams": (7e-4, 1.2e-3, 1.9e-3), "flan": (1.2e-3, 2e-3, 3.2e-3)}
LORA_PLUS_RATES = {"six": (7e-4, 1e-3, 1.5e-3), "exams": (4e-4, 7e-4, 1e-3), "flan": (4e-4, 7e-4, 1e-3)}
for _rates in (PLUS_RATES, PLAIN_RATES, MIXED_RATES, LORA_PLUS_RATES):
    _rates |= dict.fromkeys(_NEW, _rates["six"])
ROUTER_RATES = dict.fromkeys(MIXES, (1e-3, 2e-3, 4e-3))
FULL_RATES = dict.fromkeys(_NEW, (1e-4, 1.6e-4, 2.6e-4)) | {
    "six": (1e-4, 1.6e-4, 2.6e-4),
    "exams": (4e-5, 1e-4, 1.6e-4),
    "flan": (4e-5, 1e-4, 1.6e-4),
}

Score = Callable[[Run], float | None]
Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Design:
    """An arm without its rate, and the rates it begins with on each mix."""

    arm: Arm
    rates: Mapping[str, tuple[float, ...]]
    trials: tuple[int, ...] = TRIALS

    def tuned(self, mix: str, score: Score) -> tuple[list[Run], Arm | None]:
        """Runs that choose the rate, as far as scores tell them; and the best arm as soon as it is known."""
        rates = sorted(self.rates[mix])
        while True:
            first = {rate: score(self._run(mix, rate, self.trials[0])) for rate in rates}
            known = [value for value in first.values() if value is not None]
            if len(known) < len(rates):
                return [self._run(mix, rate, self.trials[0]) for rate in rates], None
            near = [rate for rate, value in first.items() if value is not None and value <= min(known) + MARGIN[mix]]
            trials = {rate: [self._run(mix, rate, seed) for seed in self.trials] for rate in near}
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
TFIDF, WORDS, TAIL = "tfidf", "joint_words", "joint_tail"
# Arms that explain, at the rate of the split on joint groups.
EXPLAINING = tuple(
    Arm("split", 1.2e-3, groups, shared_rank=rank)
    for groups, rank in (("joint_flan", 16), ("source_mixed", 16), ("joint_tail", 13))
)


def _tag(groups: str) -> Design:
    return Design(Arm("tag", 0.0, groups), LORA_PLUS_RATES)


_TOLD = ("source_text", "source")
_ROUTER = Design(Arm("router", 0.0), ROUTER_RATES)
_FAR = (  # rows that lose by more than rates differ
    Design(Arm("full", 0.0), FULL_RATES, SEEDS[:1]),
    Design(Arm("split", 0.0, "random"), PLUS_RATES, SEEDS[:1]),
    Design(Arm("balanced", 0.0), LORA_PLUS_RATES, SEEDS[:1]),
    Design(Arm("each", 0.0, "source", _TOLD), LORA_PLUS_RATES, SEEDS[:1]),
)
_HONEST = (_ROUTER, _tag("source"), _tag(OWN), *_FAR)
HONEST = {
    **dict.fromkeys(MIXES, _HONEST),
    "exams": (_ROUTER, _tag(OWN), *_FAR),  # its joint groups are its sources
}
# Rows whose rates the earlier draw chose.
BESIDE = ("router", "tag", "full", "balanced", "each", "split by random", "split by joint_words")


def scores(records: Records, first_draw: Records) -> Score:
    """Validation loss of a run, mean of macro and token; of rows beside the headline, that of the first draw."""

    def score(run: Run) -> float | None:
        record = records.get(run.key)
        if run.arm.name.startswith(BESIDE):
            record = first_draw.get(run.key, record)
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


def like_own(groups: str, own: Arm) -> Design:
    """A split on other groups with rates of the kind that was best for `OWN`; of sources, the first seed decides."""
    design = next(d for d in splits(groups) if (d.arm.ratio, d.arm.shared_scale) == (own.ratio, own.shared_scale))
    if groups != "source":
        return design
    return replace(design, arm=replace(design.arm, held_out=_TOLD), trials=SEEDS[:1])


def planned(score: Score, mixes: Sequence[str]) -> list[Run]:
    """All runs that can be told by now, the most important first, whether or not they are done."""
    own, loras = ({mix: leading(designs, mix, score) for mix in mixes} for designs in (splits(OWN), LORAS))
    headline = {mix: [arm for arm in (loras[mix], own[mix]) if arm] for mix in mixes}
    known = {mix: arm for mix, arm in own.items() if arm}
    tfidf, words, tail, source = (
        {mix: (like_own(groups, arm),) for mix, arm in known.items() if (mix, groups) != ("exams", "source")}
        for groups in (TFIDF, WORDS, TAIL, "source")
    )

    def arms(designs: Mapping[str, Sequence[Design]]) -> dict[str, list[Arm]]:
        return {mix: tuned(of, mix, score) for mix, of in designs.items()}

    following = {mix: [replace(arm, groups="joint_next")] for mix, arm in known.items()}
    explaining = dict.fromkeys([mix for mix in mixes if mix == "six"], EXPLAINING)
    honest, kinds = {mix: HONEST[mix] for mix in mixes}, dict.fromkeys(mixes, (*LORAS, *splits(OWN)))
    main = [headline, arms(tail), arms(tfidf)]
    parts: list[Iterator[Run]] = [
        _trials(kinds, score),
        _trials(tail, score),
        *(_seeds(of, SEEDS[:5]) for of in main[:2]),
        _trials(source, score),
        _seeds(arms(source), SEEDS[:5]),
        _trials(tfidf, score),
        _seeds(following, SEEDS[:5]),
        *(_seeds(of, SEEDS) for of in main),
        *(_seeds({mix: of[mix]}, seeds) for mix, seeds in MORE_SEEDS.items() for of in main if mix in of),
        _trials(honest, score),
        _seeds(arms(honest), TRIALS),
        _seeds(arms(honest), SEEDS[:5]),
        _seeds(explaining, TRIALS),
        _trials(words, score),
        _seeds(arms(words), SEEDS[:5]),
        _seeds(arms(kinds), SEEDS[:5]),
        _seeds(arms(source), SEEDS),
    ]
    return list(dict.fromkeys(chain.from_iterable(parts)))


def planned_for_second_base(score: Score, mixes: Sequence[str]) -> list[Run]:
    """The headline alone: both kinds of LoRA, and the split on the same groups and on the tail; five seeds at the best
    rates.
    """
    kinds = dict.fromkeys(mixes, (*LORAS, *splits(OWN)[:2]))
    own = {mix: leading(designs[2:], mix, score) for mix, designs in kinds.items()}
    others = {mix: [like_own(groups, arm) for groups in (TAIL, "source")] for mix, arm in own.items() if arm}
    every = {mix: (*kinds[mix], *others.get(mix, ())) for mix in mixes}
    arms = {mix: tuned(of, mix, score) for mix, of in every.items()}
    return list(dict.fromkeys(chain(_trials(kinds, score), _trials(others, score), _seeds(arms, SEEDS[:5]))))


def _trials(designs: Mapping[str, Sequence[Design]], score: Score) -> Iterator[Run]:
    """Runs without a score that choose rates; mixes in turn, so that none waits for another to end."""
    lists = [[run for d in of for run in d.tuned(mix, score)[0] if score(run) is None] for mix, of in designs.items()]
    return (run for row in zip_longest(*lists) for run in row if run is not None)


def _seeds(arms: Mapping[str, Sequence[Arm]], seeds: Sequence[int]) -> Iterator[Run]:
    return (Run(mix, arm, seed) for seed in seeds for mix, of in arms.items() for arm in of)
