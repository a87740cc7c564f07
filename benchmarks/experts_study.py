"""Do experts on groups that a corpus shows by itself beat a tuned LoRA? Three mixes, one GPU, about 13 minutes.

    python benchmarks/experts_data.py MIXES                                        # once, on a CPU
    python benchmarks/experts_study.py prepare MIXES STATE                         # groups of the hidden state
    python benchmarks/experts_study.py run MIXES STATE --minutes 8 --workers 8     # again and again until all is done
    python benchmarks/experts_study.py summary MIXES STATE RESULTS.json

`run` takes the most important runs first (`planned`), writes a line to STATE/runs.jsonl after each, skips
what is there, and starts none that would end after its limit. One process deals its workers out to all GPUs it sees.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import experts_ideas
import numpy as np
from experts_plan import FIRST, HONEST, MIXES, SEEDS, Records, of_designs
from experts_queue import run_all
from experts_runs import Arm, Budget, Run, use_tiny_base
from run_records import read_records

SMOKE = Budget(training=12, held_out=12, tokens_per_step=512)
SMOKE_DOCUMENTS = 120


def prepare(mixes: Path, state: Path, device: str, smoke: bool) -> None:
    """Mixes with groups that need no labels into STATE/mixes, and the states into STATE/NAME_states.npz."""
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
        mix = experts_groups.with_states(mix, base, device, states)
        mix = experts_groups.with_groups(mix, np.load(states)["states"])
        mix = experts_groups.with_told_gates(mix, "joint_elbow", "joint_double")
        mix.save(state / "mixes" / f"{name}.npz")
        facts[name] = mix.facts
        print(f"{time.perf_counter() - started:6.1f} s  {name}  {json.dumps(mix.facts['hidden'])}", flush=True)
        (state / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def planned(records: Records, mixes: Sequence[str]) -> list[Run]:
    """All runs that can be told by now, the most important first, whether or not they have a record."""
    later = [mix for mix in mixes if mix != "six"]
    parts = (
        of_designs(FIRST, mixes, records),
        [Run("six", Arm("lora", 1e-3), seed) for seed in SEEDS if "six" in mixes],  # what an earlier study had chosen
        experts_ideas.planned(records, mixes),
        of_designs(HONEST, [mix for mix in mixes if mix == "six"], records),
        of_designs(HONEST, later, records),
    )
    return list(dict.fromkeys(run for part in parts for run in part))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("prepare", "run", "summary"))
    parser.add_argument("mixes", type=Path, help="folder that experts_data.py wrote")
    parser.add_argument("state", type=Path, help="folder for groups and results")
    parser.add_argument("output", type=Path, nargs="?", help="JSON file of the summary")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=8, help="runs beside each other, dealt out to the GPUs")
    parser.add_argument("--only", nargs="+", choices=MIXES, help="mixes of this process, if others run elsewhere")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny model on a few documents")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if arguments.command == "prepare":
        prepare(arguments.mixes, arguments.state, arguments.device, arguments.smoke)
    elif arguments.command == "run":
        mixes = arguments.only or MIXES
        options: dict[str, Any] = {
            "minutes": arguments.minutes,
            "workers": arguments.workers,
            "device": arguments.device,
        }
        budget = SMOKE if arguments.smoke else Budget()
        run_all(
            lambda records: planned(records, mixes), arguments.state, budget=budget, tiny=arguments.smoke, **options
        )
    else:
        from experts_summary import summarise

        summarise(arguments.state, read_records(arguments.state / "runs.jsonl"), arguments.output)


if __name__ == "__main__":
    main()
