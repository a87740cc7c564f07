"""Speed and memory of whole training steps: `hydralora.training` against transformers' Trainer with PEFT and Liger.

    python benchmarks/end_to_end_documents.py documents.npz                              # where the corpora are
    python benchmarks/end_to_end_speed.py documents.npz --output speed.json              # on one GPU
    python benchmarks/end_to_end_speed.py documents.npz --output speed.json --rows "7B mixed: " --profile

LLaMA2-7B's shapes and SmolLM2-135M's with random weights in bfloat16, which cost what trained ones cost; all linear
layers adapted; 8,192 tokens a step in two micro-batches. Each row runs in a process of its own, and the result is
written after each, so that one that fails costs itself alone. Needs neither `datasets` nor a tokenizer.

TFLOP/s are counted as 4 for each weight and token of the layers' matrices (forward, and backward to the inputs), real
tokens alone.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # the same for every row

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Trainer, TrainerCallback, TrainingArguments

from hydralora import HydraLoraConfig
from hydralora.data import TokenisedDocuments, collate
from hydralora.evaluation import paired_bootstrap
from hydralora.training import RunOptions, TrainingConfig, plan_run, train
from hydralora.training.record import environment, write_json

TOKENS_PER_STEP = 8192
MICRO_BATCHES = 2
FULL_ROW = 4096
EXPERTS = 6
LEARNING_RATE = 1e-4
FIRST_STEPS = 3  # compile and fill caches; not counted


@dataclasses.dataclass(frozen=True)
class Row:
    """One training to measure.

    Attributes:
        name: size, documents, and what trains.
        kind: "stock" (transformers and PEFT), "ours", or "losses" (packed against padded, three seeds).
        adapter: "lora" (PEFT's), "one" (LoRA through our layer), "hydra" (a router over 3), "split" (a shared LoRA
            and an expert for each of six groups).
        r: rank of LoRA, and of an expert.
        size: "7B" or "135M".
        full: rows of 4,096 tokens, all of them answers, in place of the mixed documents.
        liger, packing: fused kernels, and packed rows (ours).
        micro_batches: of a step.
        batch: documents of a micro-batch (stock).
        checkpointing: of activations.
    """

    name: str
    kind: str
    adapter: str = "lora"
    r: int = 8
    size: str = "7B"
    full: bool = False
    liger: bool = True
    packing: bool = True
    micro_batches: int = MICRO_BATCHES
    batch: int = 24
    checkpointing: bool = False


ROWS = (
    Row("7B mixed: stock LoRA r=8 + Liger", "stock"),
    Row("7B mixed: ours split N=6, packed", "ours", "split"),
    Row("7B full: ours split N=6", "ours", "split", full=True),
    Row("7B full: stock LoRA r=8 + Liger", "stock", full=True, batch=1),
    Row("7B mixed: ours LoRA r=16 (our layer), packed", "ours", "one", r=16),
    Row("7B mixed: ours HydraLoRA N=3, packed", "ours", "hydra"),
    Row("7B mixed: ours LoRA r=16 (PEFT's layer), packed", "ours", "lora", r=16),
    Row("7B mixed: ours split N=6, padded", "ours", "split", packing=False),
    Row("7B mixed: ours split N=6, packed, without Liger", "ours", "split", liger=False),
    Row("7B mixed: stock LoRA r=8", "stock", liger=False),
    Row("7B full: ours LoRA r=16 (our layer)", "ours", "one", r=16, full=True),
    Row("135M mixed: stock LoRA r=8 + Liger", "stock", size="135M"),
    Row(
        "135M mixed: ours HydraLoRA N=3, padded, without Liger",
        "ours",
        "hydra",
        size="135M",
        packing=False,
        liger=False,
    ),
    Row("135M mixed: ours HydraLoRA N=3, packed", "ours", "hydra", size="135M"),
    Row("135M mixed: ours split N=6, packed", "ours", "split", size="135M"),
    Row("135M losses: packed against padded", "losses", size="135M"),
)


class Columns:
    """What `TokenisedDocuments` asks of a data set, over lists in memory."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self._columns = columns
        self.column_names = list(columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __getitem__(self, key: str | list[int]) -> Any:
        if isinstance(key, str):
            return self._columns[key]
        return {name: [values[i] for i in key] for name, values in self._columns.items()}

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        for begin in range(0, len(self), batch_size):
            yield self[list(range(begin, min(begin + batch_size, len(self))))]


def documents(path: Path, full: bool, with_gates: bool) -> TokenisedDocuments:
    """The mixed documents, or rows of `FULL_ROW` tokens made of them."""
    with np.load(path) as saved:
        tokens, lengths = saved["tokens"].astype(np.int64), saved["lengths"].astype(np.int64)
        starts, sources = saved["answer_start"].astype(np.int64), saved["source"].astype(np.int64)
    ends = lengths.cumsum()
    if full:
        count = len(tokens) // FULL_ROW
        order = np.random.default_rng(0).permutation(len(lengths))
        mixed = np.concatenate([tokens[ends[i] - lengths[i] : ends[i]] for i in order])
        rows = list(mixed[: count * FULL_ROW].reshape(count, FULL_ROW))
        starts, sources = np.ones(count, dtype=np.int64), np.arange(count) % EXPERTS
    else:
        rows = [tokens[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    columns: dict[str, list[Any]] = {
        "input_ids": rows,
        "answer_start": starts.tolist(),
        "length": [len(row) for row in rows],
        "source": [str(source) for source in sources],
    }
    if with_gates:
        columns["expert_gates"] = np.eye(EXPERTS)[sources].tolist()
    return TokenisedDocuments(Columns(columns), "plain", FULL_ROW if full else 384, 0, 0, 0)  # type: ignore[arg-type]


def base_model(size: str) -> Any:
    """Random weights in bfloat16, drawn on the GPU."""
    shapes: dict[str, Any] = {
        "7B": {},  # transformers' defaults are LLaMA2-7B's
        "135M": {
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "tie_word_embeddings": True,
        },
        "tiny": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    }[size]
    config = LlamaConfig(vocab_size=49152, bos_token_id=1, eos_token_id=2, pad_token_id=2, **shapes)
    config.max_position_embeddings = 2 * FULL_ROW
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    # Drawn as the others: where a row begins with it, zeros would stay zeros and gradients of norms overflow.
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=config.initializer_range)
    model.name_or_path = f"random {size}"
    return model.requires_grad_(False).eval()


def layer_weights(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.model.layers.parameters() if parameter.dim() == 2)


class Tokenizer:
    """All that a training asks of one."""

    pad_token_id = eos_token_id = 2


def adapter(row: Row) -> Any:
    from peft import LoraConfig

    common: dict[str, Any] = {"target_modules": "all-linear", "task_type": "CAUSAL_LM", "r": row.r}
    common["lora_alpha"] = 2 * row.r
    if row.adapter == "lora":
        return LoraConfig(**common)
    if row.adapter == "one":
        return HydraLoraConfig(**common, num_experts=1)
    if row.adapter == "hydra":
        return HydraLoraConfig(**common, num_experts=3)
    fields = {field.name for field in dataclasses.fields(HydraLoraConfig)}
    shared = {"shared_rank": row.r} if "shared_rank" in fields else {"shared_expert": True}
    return HydraLoraConfig(**common, num_experts=EXPERTS, router_input="given", **shared)


def ours(row: Row, path: Path, steps: int) -> dict[str, Any]:
    data = documents(path, row.full, with_gates=row.adapter == "split")
    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    options = {"packing": row.packing and "auto", "fused_kernels": row.liger and "auto"}
    config = TrainingConfig(
        max_steps=steps,
        tokens_per_step=TOKENS_PER_STEP,
        gradient_accumulation_steps=row.micro_batches,
        save_steps=1000,
        learning_rate=LEARNING_RATE,
        gradient_checkpointing=row.checkpointing,
        **{name: value for name, value in options.items() if name in fields},
    )
    model = base_model(row.size)
    weights = layer_weights(model)
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        result = train(model, Tokenizer(), data, Path(folder), config, peft_config=adapter(row))  # type: ignore[arg-type]
        total = time.monotonic() - started
        curve = [json.loads(line) for line in (Path(folder) / "curve.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in curve]
    tokens = plan_run(data, config).tokens_of_step
    record = result.record
    return {
        **speed(seconds, tokens.tolist(), weights),
        "padding": record["padding_share"],
        "packing": record.get("packing"),
        "fused_modules": record.get("fused_modules"),
        "memory": record.get("memory"),
        "data_wait_share": record.get("data_wait_share"),
        "first_step_s": seconds[0],
        "around_the_steps_s": round(total - record["seconds"], 2),
        "losses": [line["loss"] for line in curve],
        "trainable": record["parameters"]["trainable"],
    }


def stock(row: Row, path: Path, steps: int) -> dict[str, Any]:
    """What a user of transformers and PEFT writes, with documents of similar length together."""
    from peft import get_peft_model

    data = documents(path, row.full, with_gates=False)
    model = base_model(row.size)
    weights = layer_weights(model)
    model = get_peft_model(model, adapter(row))
    rows = data.rows(range(len(data)))
    seen = {"tokens": [], "padded": []}
    stamps: list[float] = []

    def collated(batch: list[dict[str, Any]]) -> dict[str, Any]:
        result = collate(batch, Tokenizer.pad_token_id)
        seen["tokens"].append(sum(item["length"] for item in batch))
        seen["padded"].append(result["input_ids"].numel())
        return result

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            stamps.append(time.monotonic())

        def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
            if "loss" in (logs or {}):
                stamps.append(time.monotonic())

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "output_dir": folder,
            "max_steps": steps,
            "per_device_train_batch_size": row.batch,
            "gradient_accumulation_steps": row.micro_batches,
            "bf16": torch.cuda.is_available(),
            "use_cpu": not torch.cuda.is_available(),
            "learning_rate": LEARNING_RATE,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "remove_unused_columns": False,
            "use_liger_kernel": row.liger and torch.cuda.is_available(),
            "disable_tqdm": True,
            "train_sampling_strategy": "group_by_length",
        }
        trainer = Trainer(
            model=model,
            args=TrainingArguments(**options),
            train_dataset=_List(rows),  # type: ignore[arg-type]
            data_collator=collated,
            callbacks=[Clock()],
        )
        trainer.train()
    per_step = np.array(seen["tokens"][: steps * row.micro_batches]).reshape(steps, row.micro_batches).sum(1)
    return {
        **speed([stamp - stamps[0] for stamp in stamps[1:]], per_step.tolist(), weights),
        "padding": round(1 - sum(seen["tokens"]) / sum(seen["padded"]), 4),
        "attention": model.config._attn_implementation,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


class _List(torch.utils.data.Dataset[Any]):
    """Rows that tell the Trainer their columns, as a `Dataset` does."""

    column_names = ("input_ids", "length")

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> Any:
        return [row[key] for row in self._rows] if isinstance(key, str) else self._rows[key]


def speed(seconds: Sequence[float], tokens: Sequence[int], weights: int) -> dict[str, Any]:
    """From the times at which steps ended, and the real tokens of each."""
    took = np.diff(seconds)[FIRST_STEPS - 1 :]
    counted = np.array(tokens[FIRST_STEPS : FIRST_STEPS + len(took)])
    per_second = float(counted.sum() / took.sum())
    return {
        "tokens_per_second": round(per_second, 1),
        "tokens_per_second_median_step": round(statistics.median(counted / took), 1),
        "tflops": round(4 * weights * per_second / 1e12, 1),
        "median_step_s": round(statistics.median(took), 4),
        "steps_s": [round(value, 4) for value in took.tolist()],
    }


def losses(row: Row, path: Path, steps: int) -> dict[str, Any]:
    """All weights from the same random start, packed and padded, and the difference on held-out documents."""
    data = documents(path, False, with_gates=False)
    order = np.random.default_rng(0).permutation(len(data))
    held_out, training = (
        TokenisedDocuments(Columns(data.dataset[part.tolist()]), "plain", 384, 0, 0, 0)  # type: ignore[arg-type]
        for part in (order[:240], order[240:])
    )
    found = []
    for seed in range(3):
        after = {}
        for packed in (False, True):
            config = TrainingConfig(
                max_steps=steps,
                tokens_per_step=TOKENS_PER_STEP,
                gradient_accumulation_steps=MICRO_BATCHES,
                save_steps=10_000,
                packing=packed and "auto",
                fused_kernels=packed and "auto",
                seed=seed,
            )
            with tempfile.TemporaryDirectory() as folder:
                model, options = base_model(row.size), RunOptions(held_out=held_out)
                result = train(model, Tokenizer(), training, Path(folder), config, options=options)  # type: ignore[arg-type]
            assert result.held_out_after is not None
            after[packed] = result.held_out_after
        paired = paired_bootstrap(after[True], after[False])
        found.append({"seed": seed, "padded": after[False].mean, **dataclasses.asdict(paired)})
    return {"held_out": found}


def profiled(row: Row, path: Path, steps: int) -> dict[str, Any]:
    """The kernels that take most of the time, in the steps after the first."""
    from torch.profiler import ProfilerActivity, profile, schedule

    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    watched = profile(activities=activities, schedule=schedule(wait=5, warmup=1, active=2))
    step = Trainer._maybe_log_save_evaluate

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        result = step(self, *arguments, **options)
        watched.step()
        return result

    Trainer._maybe_log_save_evaluate = counted  # type: ignore[method-assign]
    with watched:
        values = {"stock": stock, "ours": ours}[row.kind](row, path, steps)
    table = watched.key_averages().table(sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=80)
    print(row.name, table, sep="\n", flush=True)
    return values


def work(row: Row, path: Path, steps: int, profile: bool, result: Any) -> None:
    """A row, in its own process."""
    try:
        run = {"stock": stock, "ours": ours, "losses": losses}[row.kind]
        values = profiled(row, path, steps) if profile and row.kind != "losses" else run(row, path, steps)
        if torch.cuda.is_available():
            values["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            values["environment"] = environment()  # not in the parent, where asking would start CUDA
            values["reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    except Exception as error:
        traceback.print_exc()
        values = {"error": f"{type(error).__name__}: {error}"[:400]}
    result.send(values)


def measured(row: Row, arguments: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")  # importing Liger starts CUDA
    receiver, sender = context.Pipe(duplex=False)
    steps = arguments.steps * (4 if row.kind == "losses" else 1)
    process = context.Process(target=work, args=(row, arguments.documents, steps, arguments.profile, sender))
    started = time.monotonic()
    process.start()
    sender.close()
    try:
        values = receiver.recv() if receiver.poll(arguments.limit) else {"error": f"over {arguments.limit} s"}
    except EOFError:
        values = {"error": "the process died"}
    process.join(10)
    if process.is_alive():
        process.kill()
        process.join()
    return {**dataclasses.asdict(row), **values, "wall_s": round(time.monotonic() - started, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rows", default="", help="only rows with this in their name; several, separated by |")
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--limit", type=float, default=150, help="seconds for a row")
    parser.add_argument("--budget", type=float, default=560, help="seconds after which no row begins")
    parser.add_argument("--profile", action="store_true", help="print the kernels that take most of the time")
    parser.add_argument("--size", help="another size for all rows, to try the script")
    arguments = parser.parse_args()
    started, results, machine = time.monotonic(), [], None
    wanted = [row for row in ROWS if any(part in row.name for part in arguments.rows.split("|"))]
    for row in wanted:
        if time.monotonic() - started > arguments.budget:
            print(f"no time left for {row.name}", file=sys.stderr)
            continue
        row = dataclasses.replace(row, size=arguments.size or row.size)
        values = measured(row, arguments)
        machine = values.pop("environment", machine)
        results.append(values)
        shown = (
            "name",
            "tokens_per_second",
            "tflops",
            "padding",
            "peak_gib",
            "first_step_s",
            "held_out",
            "error",
            "wall_s",
        )
        print(json.dumps({name: results[-1][name] for name in shown if name in results[-1]}), flush=True)
        write_json(arguments.output, {"environment": machine, "steps": arguments.steps, "rows": results})


if __name__ == "__main__":
    main()
