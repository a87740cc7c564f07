"""Speed of whole training steps with TRL and with Unsloth, on the documents and shapes of `end_to_end_speed.py`.

    PYTHONPATH=. python benchmarks/training/end_to_end_anchors.py trl documents.npz TOKENIZER --output trl.json
    PYTHONPATH=. python benchmarks/training/end_to_end_anchors.py unsloth documents.npz TOKENIZER --output unsloth.json

LoRA r=8 on all linear layers of a model of LLaMA2-7B's shapes with random weights, packed rows of 4,096 tokens, two of
them a step, without checkpointing of activations. TOKENIZER is a folder with one of 49,152 tokens; both libraries ask
for it, though the documents are tokens already. Unsloth patches transformers when it is imported, so each library has
a process of its own.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

if sys.argv[1:2] == ["unsloth"]:
    os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
    import unsloth  # noqa: F401  must be the first of these imports

import torch
from end_to_end_shapes import MICRO_BATCHES, TOKENS_PER_STEP, base_model, documents, layer_weights, speed
from transformers import AutoTokenizer, TrainerCallback

from hydralora.training.outputs.record import environment, write_json

RANK = 8
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Clock(TrainerCallback):
    """The times at which training began and steps ended."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.stamps.append(time.monotonic())

    def on_log(self, *_: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        """A step has ended; reading its loss waited for the GPU."""
        if "loss" in (logs or {}):
            self.stamps.append(time.monotonic())


def dataset(path: Path, number: int) -> Any:
    """The mixed documents as token ids and labels of the answers."""
    from datasets import Dataset

    rows = documents(path, False, with_gates=False).rows(range(number))
    columns = {
        "input_ids": [row["input_ids"] for row in rows],
        "labels": [[-100] * r["answer_start"] + r["input_ids"][r["answer_start"] :] for r in rows],
    }
    return Dataset.from_dict(columns)


def with_trl(size: str, tokenizer: Any) -> tuple[Any, Any]:
    """A model and the configuration of its LoRA."""
    from peft import LoraConfig

    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    return base_model(size), config


def with_unsloth(size: str, tokenizer: Any) -> tuple[Any, None]:
    """A model that Unsloth loaded from a folder and adapted."""
    from unsloth import FastLanguageModel

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        model = base_model(size)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        del model
        torch.cuda.empty_cache()
        options: dict[str, Any] = {"max_seq_length": TOKENS_PER_STEP // MICRO_BATCHES, "load_in_4bit": False}
        model, _ = FastLanguageModel.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True, **options)
    options = {"lora_alpha": 2 * RANK, "lora_dropout": 0, "bias": "none", "use_gradient_checkpointing": False}
    return FastLanguageModel.get_peft_model(model, r=RANK, target_modules=LAYERS, **options), None


def measured(library: str, path: Path, size: str, tokenizer: Any, steps: int) -> dict[str, Any]:
    """Train a few steps and time them."""
    from trl import SFTConfig, SFTTrainer

    model, peft_config = {"trl": with_trl, "unsloth": with_unsloth}[library](size, tokenizer)
    weights = layer_weights(model.base_model.model if peft_config is None else model)
    clock, seen = Clock(), []
    on_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "max_steps": steps,
            "max_length": TOKENS_PER_STEP // MICRO_BATCHES,
            "packing": True,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": MICRO_BATCHES,
            "gradient_checkpointing": False,
            "bf16": on_gpu,
            "use_cpu": not on_gpu,
            "use_liger_kernel": on_gpu and library == "trl",
            "learning_rate": 1e-4,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        }
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(output_dir=folder, **options),
            train_dataset=dataset(path, 3000),
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[clock],
        )
        collate = trainer.data_collator

        def counted(batch: list[dict[str, Any]]) -> Any:
            seen.append(sum(len(row["input_ids"]) for row in batch))
            return collate(batch)

        trainer.data_collator = counted
        torch.cuda.reset_peak_memory_stats() if on_gpu else None
        trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    per_step = [sum(seen[i : i + MICRO_BATCHES]) for i in range(0, steps * MICRO_BATCHES, MICRO_BATCHES)]
    return {
        "name": f"{size} mixed: {library} LoRA r={RANK}, packed",
        **speed([stamp - clock.stamps[0] for stamp in clock.stamps[1:]], per_step, weights),
        "attention": model.config._attn_implementation,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
        "losses": losses,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=("trl", "unsloth"))
    parser.add_argument("documents", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--size", default="7B")
    arguments = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(arguments.tokenizer)
    row = measured(arguments.library, arguments.documents, arguments.size, tokenizer, arguments.steps)
    print(json.dumps({name: value for name, value in row.items() if name not in ("losses", "steps_s")}), flush=True)
    write_json(arguments.output, {"environment": environment(), "steps": arguments.steps, "rows": [row]})


if __name__ == "__main__":
    main()
