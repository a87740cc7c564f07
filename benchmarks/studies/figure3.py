"""The paper's Figure 3 redone with controls: do A of separately trained LoRAs converge, and do their B separate?

    python benchmarks/studies/figure3.py data figure3.npz                            # once, on a CPU
    python benchmarks/studies/figure3.py train figure3.npz adapters --workers 8      # minutes on one GPU
    python benchmarks/studies/figure3.py analyse figure3.npz adapters                # on a CPU

`train` writes a folder for each adapter (`adapter_model.safetensors`, `run.json`) and skips folders that are there, so
it can be stopped and started again; the most important runs come first. `analyse` takes what it finds and writes
`results/figure3.json` and the figures of docs/results/figure3.md.
"""

import argparse
import copy
import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from study_data import CORPORA, StudyData, tokenised

TASKS = ("summarization", "closed_qa", "information_extraction")
THIRDS = ("0", "1", "2")
HELD_OUT = "held_out"
HELD_OUT_DOCUMENTS = {"gsm8k": 150, **dict.fromkeys(TASKS, 100)}
SEEDS = (0, 1)
R = 8
MAX_LENGTH = 512
TOKENS = 500_000
UNTRAINED = "untrained"


@dataclass(frozen=True)
class Part:
    """What one head is trained on: documents of some groups, a group being a corpus or task and an IID third of it."""

    name: str
    groups: tuple[str, ...]


def _thirds(*kinds: str) -> tuple[Part, ...]:
    return tuple(Part(f"third_{third}", tuple(f"{kind}/{third}" for kind in kinds)) for third in THIRDS)


GSM8K_PARTS = _thirds("gsm8k")
TASK_PARTS = tuple(Part(task, tuple(f"{task}/{third}" for third in THIRDS)) for task in TASKS)


@dataclass(frozen=True)
class Experiment:
    """Heads of the parts of one corpus, each with two seeds.

    Attributes:
        parts: one head each.
        hydralora: also train a HydraLoRA with as many experts as parts, on all of them.
    """

    name: str
    parts: tuple[Part, ...]
    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    learning_rate: float = 1e-3
    hydralora: bool = False


EXPERIMENTS = (
    Experiment("gsm8k_iid", GSM8K_PARTS, hydralora=True),  # the paper's (a)
    Experiment("dolly_tasks", TASK_PARTS, hydralora=True),  # the paper's (b)
    Experiment("dolly_tasks_fast", TASK_PARTS, learning_rate=5e-3, hydralora=True),  # A moves further
    Experiment("dolly_iid", _thirds(*TASKS)),  # the documents of (b), dealt out at random
    Experiment("dolly_tasks_all_linear", TASK_PARTS, target_modules="all-linear"),
)


@dataclass(frozen=True)
class Run:
    """One adapter. `parts` is empty for the untrained one of a seed; several parts make a HydraLoRA."""

    experiment: Experiment
    parts: tuple[Part, ...]
    seed: int

    @property
    def folder(self) -> str:
        """Its folder under the output; experiments with the same targets share the untrained adapters."""
        if not self.parts:
            targets = self.experiment.target_modules
            return f"{UNTRAINED}/{targets if isinstance(targets, str) else '-'.join(targets)}-seed-{self.seed}"
        name = "hydralora" if len(self.parts) > 1 else self.parts[0].name
        return f"{self.experiment.name}/{name}-seed-{self.seed}"


def planned(experiments: tuple[Experiment, ...]) -> list[Run]:
    """All runs, the long ones of an experiment first."""
    runs: dict[str, Run] = {}
    for experiment in experiments:
        found = [Run(experiment, experiment.parts, SEEDS[0])] if experiment.hydralora else []
        found += [Run(experiment, (), seed) for seed in SEEDS]
        found += [Run(experiment, (part,), seed) for seed in SEEDS for part in experiment.parts]
        runs |= {run.folder: run for run in found}
    return list(runs.values())


def draw_documents() -> Any:
    """Documents as a polars table: source, prompt, completion, and part, the group or held-out group of each."""
    import polars as pl

    from analysis.corpus.cleaning import CleanConfig, clean
    from analysis.sources import FilesSource, read_sources

    files = {name: FilesSource((str(CORPORA / f"{name}_train.parquet"),)) for name in ("gsm8k", "dolly15k")}
    documents = clean(read_sources(files).records, CleanConfig(detect_language=False)).documents.collect()
    kind = pl.when(pl.col("source") == "gsm8k").then(pl.lit("gsm8k")).otherwise(pl.col("task")).alias("kind")
    documents = documents.filter(pl.col("split") == "train").with_columns(kind)
    chosen = []
    for name, n_held_out in HELD_OUT_DOCUMENTS.items():
        shuffled = documents.filter(pl.col("kind") == name).sample(fraction=1, shuffle=True, seed=0)
        thirds = np.arange(len(shuffled) - n_held_out) % len(THIRDS)
        parts = [f"{name}/{HELD_OUT}"] * n_held_out + [f"{name}/{third}" for third in thirds]
        chosen.append(shuffled.with_columns(part=pl.Series(parts)))
        print(name, len(shuffled), "documents", flush=True)
    return pl.concat(chosen).select("source", "prompt", "completion", "part")


def write_data(path: Path) -> None:
    """The documents as arrays, for a machine without the corpora."""
    documents = draw_documents()
    sources = (documents["source"] == "dolly15k").to_numpy().astype(np.int64)
    parts = documents["part"].to_numpy().astype(np.str_)
    StudyData(*tokenised(documents, MAX_LENGTH), sources, parts, gates={}).save(path)


def execute(run: Run, path: Path, output: Path, device: str, tokens: int) -> dict[str, Any]:
    """Train an adapter (none for the untrained), measure held-out losses, and save both under the output."""
    import torch
    from peft import get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file
    from study_runs import base_model, fit, load_data

    from hydralora.training import TrainingConfig

    started = time.perf_counter()
    data = load_data(path)
    torch.manual_seed(run.seed)
    model = get_peft_model(copy.deepcopy(base_model(device)), _peft_config(run))
    record: dict[str, Any] = {"seed": run.seed, "learning_rate": run.experiment.learning_rate}
    if run.parts:
        config = TrainingConfig(
            max_tokens=tokens * len(run.parts),
            learning_rate=run.experiment.learning_rate,
            gradient_accumulation_steps=2,
            seed=run.seed,
        )
        groups = [group for part in run.parts for group in part.groups]
        record |= fit(model, data, np.flatnonzero(np.isin(data.parts, groups)), config, device, most_tokens=4096)
        record["held_out_loss"] = held_out_losses(model, data, run.experiment, device, most=tokens // 1000)
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    state = {name: values.float().cpu().contiguous() for name, values in tensors.items()}
    record |= {
        "trainable": sum(values.numel() for values in state.values()),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "data": data.fingerprint(),
        "seconds": round(time.perf_counter() - started, 1),
    }
    folder = output / run.folder
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(state, partial / "adapter_model.safetensors")
    (partial / "run.json").write_text(json.dumps(record, indent=1))
    os.rename(partial, folder)
    return record


def _peft_config(run: Run) -> Any:
    from peft import LoraConfig

    from hydralora import HydraLoraConfig

    targets = run.experiment.target_modules
    common = {
        "r": R,
        "lora_alpha": 2 * R,
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "task_type": "CAUSAL_LM",
    }
    return HydraLoraConfig(num_experts=len(run.parts), **common) if len(run.parts) > 1 else LoraConfig(**common)


def held_out_losses(model: Any, data: StudyData, experiment: Experiment, device: str, *, most: int) -> dict[str, float]:
    """Mean loss of an answer token (nats) over held-out documents, at most so many, of each corpus or task."""
    from study_runs import document_sums

    kinds = dict.fromkeys(group.split("/")[0] for part in experiment.parts for group in part.groups)
    losses = {}
    for kind in kinds:
        documents = np.flatnonzero(data.parts == f"{kind}/{HELD_OUT}")[:most]
        sums = document_sums(model, data, documents, None, device)
        losses[kind] = float(sums.sum() / (data.lengths - data.answer_starts)[documents].sum())
    return losses


def train(path: Path, output: Path, experiments: tuple[Experiment, ...], device: str, workers: int, tokens: int) -> int:
    """Execute what is not done, `workers` runs at a time; the number of runs that failed, which are reported."""
    from study_runs import warm_up

    waiting = [run for run in planned(experiments) if not (output / run.folder).exists()]
    print(f"{len(waiting)} runs to do", flush=True)
    failed = 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=warm_up, initargs=(path, device)) as pool:
        pending = {pool.submit(execute, run, path, output, device, tokens): run.folder for run in waiting}
        for future in as_completed(pending):
            if error := future.exception():
                failed += 1
                print(f"failed: {pending[future]}\n{''.join(traceback.format_exception(error))}", flush=True)
                continue
            record = future.result()
            losses = {kind: round(loss, 3) for kind, loss in record.get("held_out_loss", {}).items()}
            print(f"{record['seconds']:6.1f} s  {pending[future]}  {losses}", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [experiment.name for experiment in EXPERIMENTS]
    parser.add_argument("command", choices=("data", "train", "analyse"))
    parser.add_argument("data", type=Path)
    parser.add_argument("adapters", type=Path, nargs="?", default=Path("outputs/figure3"))
    parser.add_argument("--experiments", nargs="+", choices=names, default=names)
    parser.add_argument("--workers", type=int, default=8, help="runs beside each other on one GPU")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of each head; a HydraLoRA has them for each expert")
    arguments = parser.parse_args()
    experiments = tuple(experiment for experiment in EXPERIMENTS if experiment.name in arguments.experiments)
    if arguments.command == "data":
        write_data(arguments.data)
    elif arguments.command == "train":
        options = (arguments.device, arguments.workers, arguments.tokens)
        sys.exit(train(arguments.data, arguments.adapters, experiments, *options) and 1)
    else:
        from figure3_analysis import analyse

        analyse(arguments.adapters)


if __name__ == "__main__":
    main()
