"""Do experts on groups that a corpus shows by itself beat a tuned LoRA? Three mixes, one GPU, about 13 minutes.

    python benchmarks/experts_data.py MIXES                                        # once, on a CPU
    python benchmarks/experts_study.py prepare MIXES STATE                         # groups of the hidden state
    python benchmarks/experts_study.py run MIXES STATE --minutes 8 --workers 8     # again and again until all is done
    python benchmarks/experts_study.py summary MIXES STATE RESULTS.json

`run` takes the most important runs first, writes a line to STATE/runs.jsonl after each, skips what is there, and starts
none that would end after its limit.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from experts_queue import run_all
from experts_runs import TOKENS_PER_STEP, Arm, Budget, Run, use_tiny_base
from run_records import read_records

MIXES = tuple(TOKENS_PER_STEP)
SEEDS = (1, 2, 3, 4, 5)
RATE = 1.2e-3  # of all arms with experts; chosen on validation documents of "six" in an earlier study
LORA_RATES = (1e-3, 7e-4, 1.5e-3)
LOWER_RATES = (7e-4, 4e-4, 2.5e-4)
FULL_RATES = (1e-4, 4e-5, 1.5e-5)
SMOKE = Budget(training=12, held_out=12, tokens_per_step=512)
SMOKE_DOCUMENTS = 120


def by_hidden(groups: str = "hidden_k6", kind: str = "split", rate: float = RATE) -> Arm:
    return Arm(kind, rate, groups, (groups, f"{groups}_text"))


def by_source(kind: str = "split", rate: float = RATE) -> Arm:
    return Arm(kind, rate, "source", ("source_text", "source"))


def planned(elbows: dict[str, int]) -> list[Run]:
    """All runs, the most important first. `elbows`: N of the hidden state's elbow for each mix.

    The first part was fixed before the first run: all arms with experts at one rate, the LoRA at three. It showed that
    the two smaller mixes want lower rates, so the second part gives rates to both sides there.
    """
    found = [mix for mix in MIXES if elbows.get(mix, 6) != 6]
    parts = (_at_fixed_rates(found), _rates_for_both_sides(), _other_arms(), _sizes(), _last_seeds(), _further())
    return list(dict.fromkeys(run for part in parts for run in part))


def _at_fixed_rates(found: Sequence[str]) -> list[Run]:
    arms = (Arm("lora", LORA_RATES[0]), by_hidden(), by_source())
    runs = _of(arms, MIXES, SEEDS[:3]) + _of((by_hidden("hidden_elbow"),), found, SEEDS[:3])
    return runs + _of(tuple(Arm("lora", rate) for rate in LORA_RATES[1:]), ("exams", "flan"), SEEDS[:1])


def _rates_for_both_sides() -> list[Run]:
    runs = []
    for seeds in (SEEDS[:1], SEEDS[1:3]):
        for rate in LOWER_RATES:
            runs += _with_rate(rate, seeds)
        arms = (Arm("lora", LORA_RATES[0]), by_hidden(), by_source(), by_hidden("hidden_elbow"))
        runs += _of(arms, ("six",), SEEDS[3:]) if seeds == SEEDS[:1] else []
    return runs


def _with_rate(rate: float, seeds: Sequence[int]) -> list[Run]:
    """On "exams" the elbow's three groups are the three sources, so one of the two is enough."""
    arms = (Arm("lora", rate), by_hidden("hidden_elbow", rate=rate))
    return _of(arms, ("exams",), seeds) + _of((*arms, by_source(rate=rate)), ("flan",), seeds)


def _other_arms() -> list[Run]:
    """On "six", where the rates are those that suit it."""
    lora_rate = LORA_RATES[0]
    arms = (
        Arm("split", RATE, "lsa_k6"),
        Arm("tag", lora_rate, "source", ("source_text", "source")),
        Arm("split", RATE, "random_k6"),
        by_source("shared"),
        by_hidden(kind="tag", rate=lora_rate),
        Arm("lora", LORA_RATES[1]),
        Arm("lora", LORA_RATES[2]),
        Arm("router", 2e-3),
    )
    return _of(arms, ("six",), SEEDS[:2]) + _of(arms[:5], ("six",), SEEDS[2:3])


def _sizes() -> list[Run]:
    """Other N, ranks, and soft gates, on "six"."""
    arms = [Arm("split", RATE, f"hidden_k{k}") for k in (4, 8, 12, 16, 2, 32)]
    arms += [Arm("split", RATE, "hidden_k6", shared_rank=rank) for rank in (8, 22)]
    return _of((*arms, Arm("split", RATE, "hidden_k6_soft")), ("six",), SEEDS[:2])


def _last_seeds() -> list[Run]:
    return [run for rate in LOWER_RATES for run in _with_rate(rate, SEEDS[3:])]


def _further() -> list[Run]:
    """Other N on the smaller mixes, at two rates; all weights; and lower rates on "six"."""
    rates = LOWER_RATES[:2]
    sizes = tuple(Arm("split", rate, f"hidden_k{k}") for rate in rates for k in (2, 4, 12, 16))
    full = tuple(Arm("full", rate) for rate in FULL_RATES)
    lower = tuple(by_hidden(rate=rate) for rate in (8e-4, 5e-4))
    tags = tuple(Arm("tag", rate, "source", ("source_text", "source")) for rate in rates)
    runs = _of(full, MIXES, SEEDS[:1]) + _of((*lower, Arm("lora", 5e-4)), ("six",), SEEDS[:2])
    return runs + _of(tags, ("exams", "flan"), SEEDS[:3]) + _of(sizes, ("exams", "flan"), SEEDS[:2])


def _of(arms: Sequence[Arm], mixes: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    return [Run(mix, arm, seed) for mix in mixes for seed in seeds for arm in arms]


def prepare(mixes: Path, state: Path, device: str, smoke: bool) -> None:
    """Mixes with groups of the hidden state into STATE/mixes, and the states into STATE/NAME_states.npz."""
    import experts_groups
    import study_runs
    from experts_mix import Mix

    (state / "mixes").mkdir(parents=True, exist_ok=True)
    if smoke:
        use_tiny_base(device)
    base = study_runs.base_model(device)
    facts = {}
    for name in MIXES:
        started = time.perf_counter()
        mix = Mix.load(mixes / f"{name}.npz")
        if smoke:
            mix = mix.take(np.linspace(0, len(mix.lengths) - 1, SMOKE_DOCUMENTS).astype(int))
        states = state / f"{name}_states.npz"
        mix = experts_groups.with_hidden_groups(mix, base, device, states)
        mix = experts_groups.with_more_groups(mix, np.load(states)["states"], device)
        mix.save(state / "mixes" / f"{name}.npz")
        facts[name] = mix.facts
        print(f"{time.perf_counter() - started:6.1f} s  {name}  {json.dumps(mix.facts['hidden'])}", flush=True)
        (state / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("prepare", "run", "summary"))
    parser.add_argument("mixes", type=Path, help="folder that experts_data.py wrote")
    parser.add_argument("state", type=Path, help="folder for groups and results")
    parser.add_argument("output", type=Path, nargs="?", help="JSON file of the summary")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=8, help="runs beside each other, dealt out to the GPUs")
    parser.add_argument("--share", default="1/1", help="K/N: every N-th run from the K-th, for N machines or processes")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny model on a few documents")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if arguments.command == "prepare":
        prepare(arguments.mixes, arguments.state, arguments.device, arguments.smoke)
    elif arguments.command == "run":
        facts = json.loads((arguments.state / "facts.json").read_text())
        runs = planned({name: of_mix["hidden"]["elbow"] for name, of_mix in facts.items()})
        part, parts = map(int, arguments.share.split("/"))
        runs = runs[part - 1 :: parts]
        options = {"minutes": arguments.minutes, "workers": arguments.workers, "device": arguments.device}
        budget = SMOKE if arguments.smoke else Budget()
        run_all(runs, arguments.state, budget=budget, tiny=arguments.smoke, **options)
    else:
        from experts_summary import summarise

        summarise(arguments.state, read_records(arguments.state / "runs.jsonl"), arguments.output)


if __name__ == "__main__":
    main()
