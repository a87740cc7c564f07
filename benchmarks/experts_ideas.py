"""Small ideas for the split at the N that a corpus shows, tried on validation documents; the winner gets all seeds.

Each idea changes one thing of the base: a split on the groups found without labels, at the ratio of rates (LoRA+ or
plain) and the rate that validation documents chose. An idea is scored by the loss of validation documents minus that of
the base with the same seed, averaged over three seeds, both metrics and all mixes (`ranking`). The best one, and the
two best together, get five seeds. Test documents decide nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from statistics import fmean, variance
from typing import Any

from experts_plan import EXPERT_RATES, LORA_PLUS_RATES, LORA_RATES, SEEDS, Design, Records, split
from experts_runs import Arm, Run

# On "exams" the joint groups are those of the hidden state.
GROUPS = {"six": "joint_elbow", "exams": "hidden_elbow", "flan": "joint_elbow"}
TRIAL_SEEDS = SEEDS[:3]
METRICS = ("macro", "token")


def _at_double(arm: Arm) -> Arm:
    return replace(arm, groups="joint_double_told", held_out=("joint_double_told",), filled=True)


# Groups at their own elbow that need no base model: words of the prompt and of the answer, and words of the prompt.
BY_WORDS = (("words_elbow", "words_elbow_text"), ("lsa_elbow", "lsa_elbow"))
# Name -> what it changes.
IDEAS: dict[str, Callable[[Arm], Arm]] = {
    "rank filled": lambda arm: replace(arm, filled=True),
    "gates smoothed": lambda arm: replace(arm, smoothing=0.1),
    "shared part alone at first": lambda arm: replace(arm, alone=0.25),
    "dropout of experts": lambda arm: replace(arm, dropout=0.1),
    "soft gates as words tell": lambda arm: replace(arm, groups="joint_elbow_told", held_out=("joint_elbow_told",)),
    "twice the elbow, soft": _at_double,
}
# Ideas that need rates of their own: which part learns at the rates of LoRA+ and which at those of plain LoRA.
RATE_IDEAS: dict[str, tuple[Arm, Mapping[str, tuple[float, ...]]]] = {
    "shared part plain, experts LoRA+": (Arm("split", 0.0, shared_scale=0.25), EXPERT_RATES),
    "shared part LoRA+, experts plain": (Arm("split", 0.0, ratio=1.0, shared_scale=4.0), LORA_PLUS_RATES),
}


def base_designs(mix: str) -> tuple[Design, Design]:
    """The split with rates of LoRA+, and with plain ones."""
    plus = split(GROUPS[mix], f"{GROUPS[mix]}_text")
    return plus, Design(replace(plus.arm, ratio=1.0), LORA_RATES)


def base(mix: str, records: Records) -> Arm | None:
    """The better of the two designs on validation documents, at its best rate; None until both are tuned."""
    tuned = [(design, design.tuned(mix, records)[1]) for design in base_designs(mix)]
    arms = [replace(design.arm, learning_rate=rate) for design, rate in tuned if rate is not None]
    if len(arms) < len(tuned):
        return None
    return min(arms, key=lambda arm: float(_validation(records, Run(mix, arm, SEEDS[0]))["macro"]))


def planned(records: Records, mixes: Sequence[str]) -> list[Run]:
    """Runs of the bases, of the ideas, and of the winners, as far as records tell them."""
    runs = [run for mix in mixes for design in base_designs(mix) for run in design.runs(mix, records)]
    bases = {mix: arm for mix in mixes if (arm := base(mix, records)) is not None}
    runs += [Run(mix, arm, seed) for mix, arm in bases.items() for seed in TRIAL_SEEDS]
    runs += [run for mix in bases for design in rate_designs(mix).values() for run in design.runs(mix, records)]
    for seed in TRIAL_SEEDS:
        runs += [Run(mix, arm, seed) for mix in bases for arm in ideas(mix, records).values()]
    runs += [Run(mix, arm, seed) for seed in SEEDS for of in winners(records).values() for mix, arm in of.items()]
    return runs + [
        Run(mix, replace(arm, groups=groups, held_out=(told,)), seed)
        for seed in TRIAL_SEEDS
        for mix, arm in bases.items()
        for groups, told in BY_WORDS
    ]


def ideas(mix: str, records: Records) -> dict[str, Arm]:
    """Each idea on the base of a mix; those with rates of their own as soon as these are known."""
    arm = base(mix, records)
    if arm is None:
        return {}
    known = {name: idea(arm) for name, idea in IDEAS.items() if not _useless(name, mix)}
    for name, design in rate_designs(mix).items():
        rate = design.tuned(mix, records)[1]
        if rate is not None:
            known[name] = replace(design.arm, learning_rate=rate)
    return known


def rate_designs(mix: str) -> dict[str, Design]:
    """Ideas that are tuned like a design of their own."""
    groups, found = GROUPS[mix], {}
    for name, (arm, rates) in RATE_IDEAS.items():
        arm = replace(arm, groups=groups, held_out=(f"{groups}_text",))
        found[name] = Design(arm, rates, len(TRIAL_SEEDS))
    return found


def scores(records: Records) -> dict[str, dict[str, list[float]]]:
    """Idea -> mix -> validation loss minus that of the base, mean of both metrics, for each seed that both have."""
    found: dict[str, dict[str, list[float]]] = {}
    for mix in GROUPS:
        start = base(mix, records)
        for name, arm in ideas(mix, records).items():
            assert start is not None
            found.setdefault(name, {})[mix] = _minus(records, mix, arm, start)
    return found


def ranking(records: Records) -> dict[str, float]:
    """Idea -> its score, the best first: mean over mixes of the difference in units of that mix's noise.

    The noise is the spread between seeds, pooled over all ideas. Empty until all ideas have all three seeds.
    """
    known = scores(records)
    wanted = sum(not _useless(name, mix) for name in (*IDEAS, *RATE_IDEAS) for mix in GROUPS)
    differences = [(name, mix, values) for name, of in known.items() for mix, values in of.items()]
    if len(differences) < wanted or any(len(values) < len(TRIAL_SEEDS) for _, _, values in differences):
        return {}
    noise = {mix: sqrt(fmean(variance(v) for _, m, v in differences if m == mix)) for mix in GROUPS}
    totals = {name: sum(fmean(values) / noise[mix] for mix, values in of.items()) for name, of in known.items()}
    return {name: totals[name] / len(GROUPS) for name in sorted(totals, key=lambda name: totals[name])}


def winners(records: Records) -> dict[str, dict[str, Arm]]:
    """Names of the best idea, and of the two best together -> mix -> arm; only ideas that gain."""
    best = [name for name, score in ranking(records).items() if score < 0][:2]
    return {
        " + ".join(names): {mix: _applied(names, mix, records) for mix in GROUPS}
        for names in (best[:1], best)
        if len(names) and len(names) == len(set(names))
    }


def _applied(names: Sequence[str], mix: str, records: Records) -> Arm:
    """Base of a mix with these ideas; one that has rates of its own takes the place of the base."""
    arm = base(mix, records)
    for name in names:
        if name in RATE_IDEAS:
            arm = ideas(mix, records)[name]
    assert arm is not None
    for name in names:
        if name in IDEAS and not _useless(name, mix):
            arm = IDEAS[name](arm)
    return arm


def _useless(name: str, mix: str) -> bool:
    """On "exams" words tell the groups without an error, so soft gates are hard ones."""
    return mix == "exams" and name == "soft gates as words tell"


def _minus(records: Records, mix: str, arm: Arm, start: Arm) -> list[float]:
    differences = []
    for seed in TRIAL_SEEDS:
        pair = [Run(mix, a, seed) for a in (arm, start)]
        if all(run.key in records for run in pair):
            own, other = (_validation(records, run) for run in pair)
            differences.append(fmean(own[metric] - other[metric] for metric in METRICS))
    return differences


def _validation(records: Records, run: Run) -> Mapping[str, Any]:
    """Losses of validation documents, under the groups that count."""
    return dict(next(iter(records[run.key]["loss"].values()))["validation"])
