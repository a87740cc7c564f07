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
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
from experts_runs import TOKENS_PER_STEP, Arm, Budget, Run, execute, use_tiny_base, warm_up

MIXES = tuple(TOKENS_PER_STEP)
SEEDS = (1, 2, 3, 4, 5)
RATE = 1.2e-3  # of all arms with experts; chosen on validation documents of "six" in an earlier study
LORA_RATES = (1e-3, 7e-4, 1.5e-3)
LOWER_RATES = (7e-4, 4e-4, 2.5e-4)
# Seconds of a run among eight on one H100, before the first has ended.
GUESS = {"six": 100.0, "exams": 60.0, "flan": 60.0}
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
    return list(dict.fromkeys([*_at_fixed_rates(found), *_rates_for_both_sides(), *_other_arms()]))


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
    runs = _of(arms, ("six",), SEEDS[:2]) + _of(arms[:5], ("six",), SEEDS[2:3])
    for rate in LOWER_RATES:
        runs += _with_rate(rate, SEEDS[3:])
    return runs


def _of(arms: Sequence[Arm], mixes: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    return [Run(mix, arm, seed) for mix in mixes for seed in seeds for arm in arms]


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Records by key; a last line that was cut short is left out."""
    records = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        records[record["key"]] = record
    return records


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
        mix = experts_groups.with_hidden_groups(mix, base, device, state / f"{name}_states.npz")
        mix.save(state / "mixes" / f"{name}.npz")
        facts[name] = mix.facts
        print(f"{time.perf_counter() - started:6.1f} s  {name}  {json.dumps(mix.facts['hidden'])}", flush=True)
        (state / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def run_all(state: Path, minutes: float, workers: int, device: str, budget: Budget) -> None:
    """Execute what is planned and not done, `workers` at a time, until `minutes` are nearly over."""
    end = time.monotonic() + 60 * minutes
    results = state / "runs.jsonl"
    records = read(results)
    # Without a line that was cut short, which the next one would be appended to.
    results.write_text("".join(json.dumps(record) + "\n" for record in records.values()))
    elbows = {name: facts["hidden"]["elbow"] for name, facts in json.loads((state / "facts.json").read_text()).items()}
    waiting = [run for run in planned(elbows) if run.key not in records]
    took = {mix: [r["seconds"] for r in records.values() if r["mix"] == mix] for mix in MIXES}
    context = multiprocessing.get_context("spawn")
    import torch

    gpus = context.Queue()
    for slot in range(workers):
        gpus.put(str(slot % max(1, torch.cuda.device_count())))
    initial = (gpus, state / "mixes", device, budget == SMOKE)
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=initial) as pool:
        pending: dict[Future[dict[str, Any]], str] = {}
        while True:
            for run in _startable(waiting, took, end, workers - len(pending)):
                waiting.remove(run)
                pending[pool.submit(execute, run, state / "mixes", device, budget)] = run.key
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                key = pending.pop(future)
                if error := future.exception():
                    print(f"failed: {key}\n{''.join(traceback.format_exception(error))[-3000:]}", flush=True)
                    continue
                record = future.result()
                took[record["mix"]].append(record["seconds"])
                with results.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                _print(record)
    print(f"{len(waiting)} runs are left", flush=True)


def _start(gpus: Any, *warm: Any) -> None:
    """Take a GPU, before CUDA starts in this process, and load what every run needs."""
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()
    warm_up(*warm)


def _startable(waiting: list[Run], took: dict[str, list[float]], end: float, number: int) -> Iterator[Run]:
    """The first runs that will end in time."""
    left = end - time.monotonic()
    chosen = []
    for run in waiting:
        recent = took[run.mix][-8:]
        expected = max(recent) * 1.1 if recent else GUESS[run.mix]
        if expected < left and len(chosen) < number:
            chosen.append(run)
    yield from chosen


def _print(record: dict[str, Any]) -> None:
    losses = {
        name or "-": {part: [round(loss["macro"], 4), round(loss["token"], 4)] for part, loss in parts.items()}
        for name, parts in record["loss"].items()
    }
    print(f"{record['seconds']:6.1f} s  {record['key']}  {record['trainable']}  {json.dumps(losses)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("prepare", "run", "summary"))
    parser.add_argument("mixes", type=Path, help="folder that experts_data.py wrote")
    parser.add_argument("state", type=Path, help="folder for groups and results")
    parser.add_argument("output", type=Path, nargs="?", help="JSON file of the summary")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=8, help="runs beside each other, dealt out to the GPUs")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny model on a few documents")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if arguments.command == "prepare":
        prepare(arguments.mixes, arguments.state, arguments.device, arguments.smoke)
    elif arguments.command == "run":
        budget = SMOKE if arguments.smoke else Budget()
        run_all(arguments.state, arguments.minutes, arguments.workers, arguments.device, budget)
    else:
        from experts_summary import summarise

        summarise(arguments.state, read(arguments.state / "runs.jsonl"), arguments.output)


if __name__ == "__main__":
    main()
