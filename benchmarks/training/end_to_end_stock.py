"""A row of `end_to_end_speed.py` as a user of transformers and PEFT trains it."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from end_to_end_shapes import LEARNING_RATE, Row, Tokenizer, adapter, base_model, documents, layer_weights, speed
from end_to_end_stages import FirstStep
from transformers import Trainer, TrainerCallback, TrainingArguments

from hydralora.data import collate


def stock(row: Row, path: Path, steps: int) -> dict[str, Any]:
    """What a user of transformers and PEFT writes, with documents of similar length together."""
    from peft import get_peft_model

    data = documents(path, row.full, with_gates=False)
    model = base_model(row.size)
    weights = layer_weights(model)
    FirstStep.stamps.clear()
    started = time.monotonic()
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
        "to_first_step_s": round(FirstStep.stamps["first step"] - started, 2),
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
