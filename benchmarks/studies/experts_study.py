"""Do experts on groups that a corpus shows by itself beat a tuned LoRA? Five mixes, two GPUs, about 25 minutes.

    python benchmarks/studies/experts_data.py MIXES                                  # once, on a CPU
    python benchmarks/studies/experts_study.py states MIXES STATE                    # on a GPU, 20 seconds
    python benchmarks/studies/experts_study.py prepare MIXES STATE                   # groups of the hidden state; a CPU
    python benchmarks/studies/experts_study.py run STATE --minutes 8 --workers 9     # again and again until all is done
    python benchmarks/studies/experts_study.py summary STATE RESULTS.json

`run` takes the most important runs first (`experts_plan`), writes a line to STATE/runs.jsonl after each, skips what is
there, and starts none that would end after its limit. One process deals its workers out to all GPUs it sees. Arms on
groups that STATE/mixes does not have yet wait for them. STATE/first_draw.jsonl holds validation losses of an earlier
draw, which choose the rates of the rows beside the headline (RUNS is benchmarks/results/experts_study_runs):

    cp RUNS/first_draw.jsonl STATE; cat RUNS/runs_*.jsonl > STATE/runs.jsonl

On another base (a folder or a hub id), with the groups of the first:

    python benchmarks/studies/experts_study.py retokenise STATE/mixes STATE_2 --base BASE
    python benchmarks/studies/experts_study.py run STATE_2 --base BASE --only six
"""

import argparse
import os
from pathlib import Path

from experts_mix import groupings_of
from experts_plan import MIXES, planned, planned_for_second_base, scores
from experts_queue import add_arguments, run_all
from experts_runs import TINY, Budget, Run
from run_records import Records, read_records

EMBEDDED = "embedded"
SMOKE = Budget(training=12, held_out=12, tokens_per_step=512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("states", "prepare", "retokenise", "run", "summary"))
    parser.add_argument("folders", type=Path, nargs="+", help="MIXES STATE, STATE, or STATE JSON")
    add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=MIXES, default=MIXES, help="mixes of this process")
    parser.add_argument("--base", default=EMBEDDED, help="base model; another one gets the headline's runs alone")
    parser.add_argument("--smoke", action="store_true", help="a few documents, and a tiny model for the embedded one")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    first, *others = arguments.folders
    if arguments.command == "states":
        from experts_groups import read_states

        read_states(first, others[0], arguments.device)
    elif arguments.command == "prepare":
        from experts_groups import prepare

        prepare(first, others[0])
    elif arguments.command == "retokenise":
        from experts_groups import retokenise

        retokenise(first, others[0], arguments.base)
    elif arguments.command == "run":
        there = {path.stem: groupings_of(path) for path in (first / "mixes").glob("*.npz")}
        mixes = [mix for mix in arguments.only if mix in there]
        plan = planned if arguments.base == EMBEDDED else planned_for_second_base
        first_draw = read_records(first / "first_draw.jsonl")

        def wanted(records: Records) -> list[Run]:
            runs = plan(scores(records, first_draw), mixes)
            return [run for run in runs if not run.arm.groups or run.arm.groups in there[run.mix]]

        run_all(
            wanted,
            first,
            arguments,
            budget=SMOKE if arguments.smoke else Budget(),
            base=TINY if arguments.smoke and arguments.base == EMBEDDED else arguments.base,
        )
    else:
        from experts_summary import summarise

        summarise(first, others[0] if others else None)


if __name__ == "__main__":
    main()
