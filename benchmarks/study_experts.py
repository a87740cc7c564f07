"""Do experts pay? LoRA, HydraLoRA with its own router, and gates from the prompt, of equal size on six corpora.

    python benchmarks/study_data.py study.npz                 # once, on a CPU
    python benchmarks/study_experts.py run study.npz runs.jsonl --workers 8
    python benchmarks/study_experts.py summarise study.npz runs.jsonl

Every setting is trained once and judged on validation documents; the best of each family is then trained with new seeds
and measured on test documents. The families with LoRA+ rates (arXiv 2402.12354) say how much of a gain is rates.
Other ideas are then tried once each on validation documents. `run` appends a line for each finished run and skips runs
that are there, so it can be stopped and started again. `summarise` writes `results/study_experts.json` and prints the
tables of docs/results/experts.md.
"""

import argparse
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from run_records import Records, read_records, rewrite, run_beside
from study_runs import Run, Setting, execute, warm_up

SEEDS = (1, 2, 3, 4, 5)
TUNING_SEED = 0
HELD_OUT_SOURCES = ("predicted_source", "nearest_source", "oracle", "predicted_source_words", "predicted_source_soft")


# A higher rate for B than for A: LoRA+.
B_RATE_RATIO = 4.0


def _lora(learning_rate: float) -> Setting:
    return Setting("lora", 28, 1, learning_rate)


def _plus(setting: Setting) -> Setting:
    return replace(setting, family=f"{setting.family}_plus", learning_rate_ratios={"hydralora_B": B_RATE_RATIO})


def _router(learning_rate: float) -> Setting:
    return Setting("hydralora", 8, 6, learning_rate)


def _sources(learning_rate: float, r: int = 8, **options: Any) -> Setting:
    """Trained with the corpus of each document as gates, measured with what the prompt tells."""
    return Setting("sources", r, 6, learning_rate, "oracle", HELD_OUT_SOURCES, options)


def _clusters(gates: str, n: int, r: int, learning_rate: float, **options: Any) -> Setting:
    return Setting("clusters", r, n, learning_rate, gates, options=options)


# All of 8.5 to 8.7 million parameters, so that one LoRA matches them.
SETTINGS = (
    _lora(1.5e-3),
    _lora(2.5e-3),
    _router(2.5e-3),
    _router(4e-3),
    _sources(2.5e-3),
    _sources(4e-3),
    _clusters("lsa128_k6", 6, 7, 2.5e-3, shared_expert=True),
    _clusters("lsa128_k6", 6, 7, 4e-3, shared_expert=True),
    _lora(4e-3),
    _router(6e-3),
    _sources(4e-3, r=7, shared_expert=True),
    _clusters("lsa128_k6", 6, 8, 4e-3),
    _plus(_lora(1e-3)),
    _plus(_lora(1.5e-3)),
    _plus(_sources(1.2e-3, r=7, shared_expert=True)),
    _plus(_sources(2e-3, r=7, shared_expert=True)),
)
# Tried once each, after the final runs; compared with the setting of the same family above.
EXPLORED = (
    _sources(6e-3, r=7, shared_expert=True),
    _plus(_router(2e-3)),
    replace(_router(4e-3), guide="lsa128_k6"),
    replace(_router(4e-3), guide="oracle"),
    replace(_router(4e-3), balance=0.01),
    Setting("hydralora", 7, 6, 4e-3, options={"router_input": "hidden"}),
    Setting("hydralora", 7, 6, 4e-3, options={"shared_expert": True}),
    _clusters("lsa128_k3", 3, 14, 4e-3),
)
FAMILIES = tuple(dict.fromkeys(setting.family for setting in SETTINGS))


def planned(records: Records) -> list[Run]:
    """All runs that what is known asks for, in order: settings to tune, then final runs of the best of each family."""
    best = best_settings(records)
    runs = [Run(setting, "tune", TUNING_SEED) for setting in SETTINGS]
    runs += [Run(setting, "final", seed) for seed in SEEDS for setting in best.values()]
    if len(best) == len(FAMILIES):
        alone = (best["lora"], replace(best["lora"], family="one_expert", r=8, learning_rate=4e-3), best["hydralora"])
        runs += [Run(setting, "tune", TUNING_SEED) for setting in EXPLORED]
        runs += [Run(setting, "alone", seed) for seed in SEEDS[:3] for setting in alone]
    return runs


def best_settings(records: Records) -> dict[str, Setting]:
    """Family -> its setting of least validation loss, for families whose settings have all been tried."""
    best: dict[str, Setting] = {}
    for family in FAMILIES:
        settings = [setting for setting in SETTINGS if setting.family == family]
        tried = [records[key] for setting in settings if (key := _tuning_key(setting)) in records]
        if len(tried) == len(settings):
            losses = [counted_loss(record)["mean"] for record in tried]
            best[family] = settings[losses.index(min(losses))]
    return best


def counted_loss(record: Mapping[str, Any]) -> Mapping[str, float]:
    """Of the losses under several kinds of gates, the one that a setting is judged by."""
    losses: Mapping[str, Mapping[str, float]] = record["loss"]
    return next(iter(losses.values()))


def _tuning_key(setting: Setting) -> str:
    return Run(setting, "tune", TUNING_SEED).key


def run_all(data: Path, results: Path, workers: int, device: str) -> None:
    """Execute what is planned and not done, `workers` runs at a time. Runs that fail are reported and left out."""
    records = read_records(results)
    rewrite(results, records)
    asked = set(records)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=warm_up, initargs=(data, device)) as pool:

        def chosen(number: int) -> list[Run]:
            runs = [run for run in planned(records) if run.key not in asked][:number]
            asked.update(run.key for run in runs)
            return runs

        def finished(record: dict[str, Any]) -> None:
            records[record["key"]] = record
            print(f"{record['seconds']:6.1f} s  {record['key']}  {counted_loss(record)['mean']:.4f}", flush=True)

        run_beside(results, workers, chosen, lambda run: pool.submit(execute, run, data, device), finished)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "summarise"))
    parser.add_argument("data", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--workers", type=int, default=8, help="runs beside each other on one GPU")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run_all(arguments.data, arguments.results, arguments.workers, arguments.device)
    else:
        from study_summary import summarise

        summarise(arguments.data, read_records(arguments.results))


if __name__ == "__main__":
    main()
