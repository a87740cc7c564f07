"""The runs of the paper's tables on a machine with a GPU that has neither Dagster nor the corpora.

    python benchmarks/studies/paper_data.py STORE STATE                                    # once, on a CPU
    python benchmarks/studies/paper_study.py STATE --minutes 24 --workers 10               # again until nothing is left
    python benchmarks/studies/paper_summary.py STORE STATE RESULTS.json                    # on a CPU

These are the runs of the job `study` (pipelines/configs/study.yaml): the same methods, documents, budget, rates to try,
and rule to extend them. The loop is that of `study_runs`. STATE/runs.jsonl gets a line after each run, and a rerun goes
on. Each rate is tuned for its method, domain and N with the whole budget and seed 0, on validation documents. The run
at the best rate counts as seed 0.
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import study_runs
import torch
from experts_mix import Ints, Mix
from experts_queue import add_arguments, run_all
from experts_runs import TINY, load_mix, warm_up
from paper_lorahub import train_lorahub
from study_runs import document_sums, fit, pack

from analysis.methods.rates import best_rate, is_bracketed, next_rates
from hydralora.data import IGNORED
from hydralora.evaluation.answer_loss import answer_loss
from hydralora.evaluation.chunked_loss import can_chunk
from hydralora.methods import MethodConfig, adapt
from hydralora.training import TrainingConfig

BASE, LORAHUB = "base", "lorahub"
FIRST_SEEDS, LAST_SEEDS = (1, 2), (3, 4)  # beside seed 0, which tunes the rate
SLOW = ("prefix_tuning", "prompt_tuning", "p_tuning")  # cannot be packed; their last seeds wait for all other runs
HELD_OUT = ("validation", "held_out")
# Of padded micro-batches, padding included. A position of the base takes 0.8 MB of memory (1.5 MB if all weights are
# trained), by the tensors that a forward pass saves.
MOST_TOKENS = 3072
SMOKE = {"max_steps": 10, "tokens_per_step": 256}

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Cell:
    """A method on a domain with N experts, as STATE/plan.json lists them.

    Attributes:
        mix: the domain.
        match_parameters: size of HydraLoRA, for "lora_matched".
    """

    method: str
    mix: str
    num_experts: int
    match_parameters: int | None = None


@dataclass(frozen=True)
class Run(Cell):
    """A cell with a rate and a seed."""

    rate: float = 0.0
    seed: int = 0

    @property
    def key(self) -> str:
        return f"{self.mix} | {self.method} N={self.num_experts} | lr={self.rate:g} | seed {self.seed}"


class Plan:
    """All runs that can be told from the records so far, the most important first.

    The rates of all cells are tuned first, since each round waits for the one before. Further seeds follow, in the
    order of the tables.
    """

    def __init__(self, path: Path) -> None:
        plan = json.loads(path.read_text())
        self.cells = [Cell(**cell) for cell in plan["cells"]]
        self.start: dict[str, list[float]] = plan["rates"]

    def __call__(self, records: Records) -> list[Run]:
        cells = [cell for cell in self.cells if cell.method != BASE]
        tried = {cell: self.tried(cell, records) for cell in cells}
        best = {cell: best_rate(losses) for cell, losses in tried.items() if losses and is_bracketed(losses)}
        slow = [cell for cell in best if cell.method in SLOW]
        fast = [cell for cell in best if cell.method not in SLOW]
        runs = [Run(**asdict(cell)) for cell in self.cells if cell.method == BASE]
        runs += [run for cell in cells for run in self.trials(cell, tried[cell])]
        for seeds, of in ((FIRST_SEEDS, best), (LAST_SEEDS, fast), (LAST_SEEDS, slow)):
            runs += [Run(**asdict(cell), rate=best[cell], seed=seed) for cell in of for seed in seeds]
        return runs

    def tried(self, cell: Cell, records: Records) -> dict[float, float]:
        """Rate -> validation loss, the mean over sources, of the runs of seed 0."""
        own = {"method": cell.method, "mix": cell.mix, "num_experts": cell.num_experts, "seed": 0}
        return {
            record["rate"]: record["loss"][""]["validation"]["sources"]
            for record in records.values()
            if all(record[name] == value for name, value in own.items())
        }

    def trials(self, cell: Cell, tried: Mapping[float, float]) -> list[Run]:
        """The runs that tuning needs next."""
        return [Run(**asdict(cell), rate=rate) for rate in next_rates(tried, self.start[cell.method])]


@cache
def configs(folder: Path) -> tuple[TrainingConfig, MethodConfig]:
    """The settings of STATE/plan.json."""
    plan = json.loads((folder.parent / "plan.json").read_text())
    return TrainingConfig(**plan["training"]), MethodConfig(**plan["method"])


def execute(run: Run, folder: Path, device: str, smoke: bool) -> dict[str, Any]:
    """Train and evaluate; the record of the run as JSON values."""
    started = time.perf_counter()
    mix = load_mix(folder / f"{run.mix}.npz")
    held_out = mix.indices(*HELD_OUT)
    if smoke:
        held_out = held_out[::40]
    training, settings = configs(folder)
    torch.manual_seed(run.seed)
    model: Any = copy.deepcopy(study_runs.base_model(device))
    record: dict[str, Any] = {"trainable": 0}
    if run.method != BASE:
        config = replace(training, learning_rate=run.rate, seed=run.seed, **(SMOKE if smoke else {}))
        own = replace(
            settings,
            num_experts=run.num_experts,
            match_parameters=run.match_parameters,
            total_steps=config.max_steps,
        )
        model = adapt(model, run.method, own)
        record = _trained(model, mix, run, config, device)
    sums = document_sums(model, mix, held_out, None, device)  # type: ignore[arg-type]
    return {
        "key": run.key,
        **asdict(run),
        **record,
        "loss": {"": {part: losses(mix, held_out, sums, part) for part in HELD_OUT}},
        "document_losses": pack(sums[mix.parts[held_out] == "held_out"]),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _trained(model: Any, mix: Mix, run: Run, config: TrainingConfig, device: str) -> dict[str, Any]:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    hooks: dict[str, Any] = {}
    if hasattr(getattr(model, "base_model", None), "update_and_allocate"):
        hooks = {"own_loss": _regularised_loss, "before_zero_grad": model.base_model.update_and_allocate}

    def train(documents: Ints, config: TrainingConfig) -> dict[str, Any]:
        chunked = can_chunk(model.get_output_embeddings())
        return fit(model, mix, documents, config, device, most_tokens=MOST_TOKENS, chunked=chunked, **hooks)  # type: ignore[arg-type]

    adapters, documents = 1, mix.indices("training")
    if run.method == LORAHUB:
        adapters = len(np.unique(mix.labels["cluster"]))
        record = train_lorahub(model, mix, documents, config, device, train)
    else:
        record = train(documents, config)
    return {
        "trainable": adapters * sum(p.numel() for p in model.parameters() if p.requires_grad),
        **{name: record[name] for name in ("steps", "tokens")},
        "training_loss": [round(float(np.mean(record["losses"][part])), 4) for part in (slice(5), slice(-5, None))],
    }


def _regularised_loss(model: Any, batch: Any, answers: int) -> torch.Tensor:
    """Mean answer loss and a batch's share of AdaLoRA's regulariser. PEFT adds it only to the loss of all logits."""
    config = model.active_peft_config
    factors = [(name, p) for name, p in model.named_parameters() if "lora_A" in name or "lora_B" in name]
    products = [p @ p.T if "lora_A" in name else p.T @ p for name, p in factors]
    distances = [torch.linalg.matrix_norm(product - torch.eye(len(product)).to(product)) for product in products]
    share = (batch["labels"] != IGNORED).sum() / answers
    return (
        answer_loss(model, batch, chunked=True) / answers
        + share * config.orth_reg_weight * torch.stack(distances).mean()
    )


def losses(mix: Mix, held_out: Ints, sums: Any, part: str) -> dict[str, float]:
    """Mean loss of an answer token: over tokens, over tasks ("macro"), and over sources."""
    there = mix.parts[held_out] == part
    documents, own = held_out[there], sums[there]
    counts = (mix.lengths - mix.answer_starts)[documents]
    return {
        "token": float(own.sum() / counts.sum()),
        "macro": _mean_over(mix.tasks[documents], own, counts),
        "sources": _mean_over(mix.sources[documents], own, counts),
    }


def _mean_over(groups: Ints, sums: Any, counts: Ints) -> float:
    loss, tokens = np.bincount(groups, sums), np.bincount(groups, counts)
    return float(np.mean(loss[tokens > 0] / tokens[tokens > 0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path)
    add_arguments(parser)
    parser.add_argument("--smoke", action="store_true", help="a tiny model, 10 steps, few documents")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    run_all(
        Plan(arguments.state / "plan.json"),
        arguments.state,
        arguments,
        budget=arguments.smoke,
        base=TINY if arguments.smoke else "embedded",
        execute=execute,
        warm_up=partial(warm_up, evaluation_tokens=4096),
    )


if __name__ == "__main__":
    main()
