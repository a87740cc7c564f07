"""Do experts on groups that a corpus shows by itself beat a tuned LoRA? Three mixes, one GPU, about 25 minutes.

    python benchmarks/studies/experts_data.py MIXES                                  # once, on a CPU
    python benchmarks/studies/experts_study.py prepare MIXES STATE                   # groups of the hidden state
    python benchmarks/studies/experts_study.py run STATE --minutes 8 --workers 12    # again and again until all is done
    python benchmarks/studies/experts_study.py summary STATE RESULTS.json

`run` takes the most important runs first (`experts_plan`), writes a line to STATE/runs.jsonl after each, skips what is
there, and starts none that would end after its limit. One process deals its workers out to all GPUs it sees.
STATE/earlier.jsonl may hold losses of an earlier version's runs, which help to choose rates
(RUNS is benchmarks/results/experts_study_runs):

    cp RUNS/earlier.jsonl STATE/earlier.jsonl; cat RUNS/runs_*.jsonl > STATE/runs.jsonl

On another base (a folder or a hub id), with the groups of the first:

    python benchmarks/studies/experts_study.py retokenise STATE/mixes STATE_2 --base BASE
    python benchmarks/studies/experts_study.py run STATE_2 --base BASE --only six
"""

import argparse
import os
from pathlib import Path

from experts_plan import MIXES, planned, planned_for_second_base, read_earlier, scores
from experts_queue import add_arguments, run_all
from experts_runs import TINY, Budget

EMBEDDED = "embedded"
SMOKE = Budget(training=12, held_out=12, tokens_per_step=512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("prepare", "retokenise", "run", "summary"))
    parser.add_argument("folders", type=Path, nargs="+", help="MIXES STATE, STATE, or STATE JSON")
    add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=MIXES, default=MIXES, help="mixes of this process")
    parser.add_argument("--base", default=EMBEDDED, help="base model; another one gets the headline's runs alone")
    parser.add_argument("--smoke", action="store_true", help="a few documents, and a tiny model for the embedded one")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    first, *others = arguments.folders
    if arguments.command == "prepare":
        from experts_groups import prepare

        prepare(first, others[0], arguments.device)
    elif arguments.command == "retokenise":
        from experts_groups import retokenise

        retokenise(first, others[0], arguments.base)
    elif arguments.command == "run":
        earlier = read_earlier(first / "earlier.jsonl")
        plan = planned if arguments.base == EMBEDDED else planned_for_second_base
        run_all(
            lambda records: plan(scores(records, earlier), arguments.only),
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
