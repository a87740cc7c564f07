"""Costs of a method: speed, memory and energy, measured on some training steps on an otherwise idle machine."""

import gc
import importlib.util
import json
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from pipelines.store.artifacts import Artifact, Draft, build_artifact
from pipelines.study.running.run import Run, Setup
from pipelines.study.running.run_documents import HELD_OUT, TRAINING, read_run_documents
from pipelines.training.adapters import Log, TrainingJob, load_adapter, train_adapter
from pipelines.training.recipe import BaseModel

if TYPE_CHECKING:
    from hydralora.data import TokenisedDocuments

ASSET = "method_costs"
ENERGY_PARTS = ("cpu_kwh", "gpu_kwh", "ram_kwh")
GIB = 2**30
# The first steps compile kernels and fill caches.
WARM_UP_STEPS = 2
NUM_PROMPTS = 8
NEW_TOKENS = 32
LINUX_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Costs:
    """Costs of a run with its full budget, extrapolated from some of its steps.

    Attributes:
        tokens_per_second: training speed after the first steps, without padding tokens.
        generated_per_second: new tokens per second for a batch of at most eight prompts, with greedy decoding and the
            KV cache.
        peak_memory_gib: peak memory of training: of the GPU's allocator, or of this process on a CPU.
        hours: time to train the full budget.
        cpu_kwh, gpu_kwh, ram_kwh: mean power of the measured steps times `hours`; None if it was not measured.
    """

    method: str
    tokens_per_second: float
    generated_per_second: float
    peak_memory_gib: float
    hours: float
    cpu_kwh: float | None
    gpu_kwh: float | None
    ram_kwh: float | None


def check_meter(*, measure_energy: bool) -> None:
    """Check, before hours of training, that the energy meter is installed if energy is to be measured.

    Raises:
        dagster.Failure: codecarbon is missing.
    """
    if measure_energy and importlib.util.find_spec("codecarbon") is None:
        raise dg.Failure(
            "Nothing was trained. Energy needs codecarbon: pip install codecarbon, or set measure_energy: false.",
            allow_retries=False,
        )


def measure_costs(setup: Setup, runs: Sequence[Run], steps: int, *, measure_energy: bool, log: Log) -> pl.DataFrame:
    """Measure the `Costs` of each run, one row per run, one run at a time.

    The first run is trained twice, because the first training in a process includes the start of CUDA and its
    libraries.
    """
    warm = False

    def measured(run: Run) -> Artifact:
        def build(draft: Draft) -> None:
            nonlocal warm
            if not warm:
                measure(setup, run, steps, measure_energy=False)
                warm = True
            costs = measure(setup, run, steps, measure_energy=measure_energy)
            log(f"{run.method}: {costs.tokens_per_second:.0f} tokens/s, {costs.peak_memory_gib:.2f} GiB")
            draft.write_json("costs", asdict(costs))

        identity = setup.identity(run)
        identity["config"] = {**identity["config"], "steps": steps, "measure_energy": measure_energy}
        return build_artifact(setup.directory, ASSET, build=build, **identity)

    return pl.DataFrame([measured(run).json("costs") for run in runs], infer_schema_length=None)


def measure(setup: Setup, run: Run, steps: int, *, measure_energy: bool) -> Costs:
    """Train some steps of a run in a temporary folder, then generate with the trained model."""
    from hydralora.training import plan_run

    recipe, base_model = setup.load(run)
    documents = read_run_documents(setup.documents, TRAINING)
    budget = {"max_steps": steps + WARM_UP_STEPS, "max_tokens": None, "num_train_epochs": None}
    training = TrainingJob(
        run.method, run.num_experts, run.seed, match_parameters=run.match_parameters, measure_energy=measure_energy
    )
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _reset_peak_memory()
        train_adapter(lambda _: None, folder, training, documents, recipe.model_copy(update=budget), base_model)
        peak_memory = _peak_memory()
        energy = json.loads((folder / "run.json").read_text())["energy"]
        speed = steady_speed(pl.read_ndjson(folder / "curve.jsonl"))
        generated = generation_speed(base_model, folder, read_run_documents(setup.documents, HELD_OUT))
    hours = int(plan_run(documents, recipe.training_config(run.method)).tokens_of_step.sum()) / speed / 3600
    kwh = {part: energy[part] / energy["hours"] * hours if energy else None for part in ENERGY_PARTS}
    return Costs(run.method, speed, generated, peak_memory / GIB, hours, **kwh)


def steady_speed(curve: pl.DataFrame) -> float:
    """Tokens per second of a training curve, without its first steps."""
    start, end = curve.row(WARM_UP_STEPS - 1, named=True), curve.row(-1, named=True)
    return float((end["tokens"] - start["tokens"]) / (end["seconds"] - start["seconds"]))


def generation_speed(base_model: BaseModel, folder: Path, documents: "TokenisedDocuments") -> float:
    """New tokens per second for the first prompts of some documents, with the adapter or model in a folder."""
    import torch

    import hydralora

    model, tokenizer = load_adapter(base_model, folder)
    rows = documents.for_adapter(getattr(model, "active_peft_config", None)).rows(
        range(min(NUM_PROMPTS, len(documents)))
    )
    prompts = [{"input_ids": row["input_ids"][: row["answer_start"]]} for row in rows]
    batch = tokenizer.pad(prompts, padding_side="left", return_tensors="pt").to(model.device)
    gates = torch.tensor([row["expert_gates"] for row in rows]) if "expert_gates" in rows[0] else None

    def generate() -> float:
        started = time.monotonic()
        model.generate(**batch, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
        return time.monotonic() - started

    with torch.inference_mode(), warnings.catch_warnings():
        # PEFT warns for virtual tokens; it computes their positions itself.
        warnings.filterwarnings("ignore", "Position ids are not supported", UserWarning)
        given = nullcontext() if gates is None else hydralora.expert_gates(model, gates.to(model.device))
        with given:
            generate()
            return len(rows) * NEW_TOKENS / generate()


def _reset_peak_memory() -> None:
    import torch

    gc.collect()  # frees the previous model, which has reference cycles
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif LINUX_STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> float:
    """Peak memory in bytes since `_reset_peak_memory`; NaN if the system does not report it."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    if not LINUX_STATUS.exists():
        return float("nan")
    line: Any = next(line for line in LINUX_STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) * 1024
