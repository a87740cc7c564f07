"""CPU seconds for each 1,000 tokens of training: `hydralora.training` against a bare loop, and settings to choose from.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python benchmarks/training/training_throughput.py

Real documents from `HYDRALORA_CORPORA` on the embedded base model. CPU seconds, because other work may share the
machine.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from peft import LoraConfig, PeftConfig, get_peft_model

from hydralora import HydraLoraConfig
from hydralora.base_model import load_base_model
from hydralora.data import IGNORED, Batch, TokenisedDocuments, collate, pad_token_id, tokenise
from hydralora.evaluation.answer_loss import answer_loss
from hydralora.training import TrainingConfig, plan_run, train
from hydralora.training.outputs.record import environment

REPOSITORY = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
RESULTS = REPOSITORY / "benchmarks" / "results" / "training_throughput.json"
SOURCES = ("gsm8k", "medquad", "legalbench", "mbxp", "flan10")
QV = ["q_proj", "v_proj"]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOP = {n: list(range(30 - n, 30)) for n in (5, 10, 15)}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One way to train."""

    name: str
    config: PeftConfig
    attention: str = "sdpa"
    dtype: torch.dtype = torch.bfloat16
    full_logits: bool = False


def lora(targets: list[str], layers: list[int] | None = None) -> LoraConfig:
    return LoraConfig(r=8, target_modules=targets, layers_to_transform=layers, task_type="CAUSAL_LM")


def hydra(targets: list[str], layers: list[int] | None = None) -> HydraLoraConfig:
    return HydraLoraConfig(
        r=8, num_experts=4, target_modules=targets, layers_to_transform=layers, task_type="CAUSAL_LM"
    )


SETTINGS = (
    Setting("LoRA q,v; float32 base; all logits", lora(QV), dtype=torch.float32, full_logits=True),
    Setting("LoRA q,v; all logits", lora(QV), full_logits=True),
    Setting("LoRA q,v", lora(QV)),
    Setting("LoRA q,v; eager attention", lora(QV), "eager"),
    Setting("HydraLoRA q,v; eager attention", hydra(QV), "eager"),
    Setting("LoRA all linear; eager attention", lora(LINEAR), "eager"),
    Setting("HydraLoRA all linear; eager attention", hydra(LINEAR), "eager"),
    Setting("HydraLoRA q,v; top 10 layers; eager attention", hydra(QV, TOP[10]), "eager"),
    Setting("LoRA all linear; top 10 layers; eager attention", lora(LINEAR, TOP[10]), "eager"),
    Setting("HydraLoRA all linear; top 10 layers; eager attention", hydra(LINEAR, TOP[10]), "eager"),
    Setting("HydraLoRA all linear; top 5 layers; eager attention", hydra(LINEAR, TOP[5]), "eager"),
)


def documents(tokenizer: Any, per_source: int) -> TokenisedDocuments:
    rows = []
    for source in SOURCES:
        table = pq.read_table(CORPORA / f"{source}_train.parquet").slice(0, per_source).to_pylist()
        rows += [
            {
                "prompt": "\n".join(filter(None, (row["instruction"], row["input"]))),
                "completion": row["output"],
                "source": source,
            }
            for row in table
        ]
    return tokenise(rows, tokenizer, template="plain", max_length=256)


def full_loss(model: Any, batch: Batch) -> torch.Tensor:
    """What a model computes by itself: logits everywhere."""
    return model(**batch).loss * (batch["labels"] != IGNORED).sum()


def seconds_per_thousand(loss: Callable[[Any, Batch], torch.Tensor], model: Any, batches: list[Batch]) -> float:
    """CPU seconds of forward and backward for 1,000 tokens without padding, the better of two passes."""
    loss(model, batches[0]).backward()
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    costs = []
    for _ in range(2):
        started = time.process_time()
        for batch in batches:
            loss(model, batch).backward()
        costs.append((time.process_time() - started) / tokens * 1000)
    return min(costs)


def measure(setting: Setting, batches: list[Batch]) -> dict[str, Any]:
    base, _ = load_base_model("embedded", dtype=setting.dtype, device="cpu")
    base.set_attn_implementation(setting.attention)
    model = get_peft_model(base, setting.config).train()
    cost = seconds_per_thousand(full_loss if setting.full_logits else answer_loss, model, batches)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"setting": setting.name, "cpu_seconds_per_1000_tokens": round(cost, 3), "trainable": trainable}


def against_bare_loop(data: TokenisedDocuments, pad: int, steps: int, rounds: int) -> dict[str, Any]:
    """CPU seconds of `train` and of the shortest loop that reads the same batches; the best of alternating rounds."""
    config = TrainingConfig(max_steps=steps, tokens_per_step=1024, gradient_accumulation_steps=2, save_steps=10_000)
    costs: dict[str, list[float]] = {"hydralora.training": [], "bare loop": []}
    for _ in range(rounds):
        costs["bare loop"].append(bare_loop(data, config, pad))
        costs["hydralora.training"].append(trainer_loop(data, config))
    best = {name: min(values) for name, values in costs.items()}
    return {
        "cpu_seconds": {name: [round(value, 2) for value in values] for name, values in costs.items()},
        "tokens": int(plan_run(data, config).tokens_of_step.sum()),
        "relative_speed": round(best["bare loop"] / best["hydralora.training"], 3),
    }


def bare_loop(data: TokenisedDocuments, config: TrainingConfig, pad: int) -> float:
    base, _ = load_base_model("embedded", device="cpu")
    model = get_peft_model(base, hydra(QV)).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    plan = plan_run(data, config)
    started = time.process_time()
    for step in range(plan.num_steps):
        groups = plan.micro_batches[step * plan.per_step : (step + 1) * plan.per_step]
        batches = [collate(data.rows(group), pad) for group in groups]
        answers = sum((batch["labels"] != IGNORED).sum() for batch in batches)
        for batch in batches:
            (answer_loss(model, batch) / answers).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.process_time() - started


def trainer_loop(data: TokenisedDocuments, config: TrainingConfig) -> float:
    base, tokenizer = load_base_model("embedded", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        result = train(base, tokenizer, data, Path(folder), config, peft_config=hydra(QV))
    return float(result.record["cpu_seconds"])


def padding_shares(data: TokenisedDocuments) -> dict[str, float]:
    """By micro-batches of a step of 4,096 tokens."""
    plans = {
        n: plan_run(data, TrainingConfig(num_train_epochs=1, tokens_per_step=4096, gradient_accumulation_steps=n))
        for n in (1, 2, 4, 8)
    }
    return {str(n): round(plan.padding_share, 3) for n, plan in plans.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("all", "bare_loop", "settings"), default="all")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps of the comparison with a bare loop")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    _, tokenizer = load_base_model("embedded", device="cpu")
    pad = pad_token_id(tokenizer)
    data = documents(tokenizer, 100)
    result: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result |= {"environment": environment(), "data": data.fingerprint(), "seed": 0}
    result["padding_share"] = padding_shares(data)
    if arguments.part != "method_config":
        result["against_bare_loop"] = against_bare_loop(data, pad, arguments.steps, arguments.rounds)
        print(result["against_bare_loop"], result["padding_share"], flush=True)
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.part != "bare_loop":
        plan = plan_run(data, TrainingConfig(max_steps=1, tokens_per_step=1536, gradient_accumulation_steps=3))
        batches = [collate(data.rows(group), pad) for group in plan.micro_batches]
        result["settings"] = []
        for setting in SETTINGS:
            result["settings"].append(measure(setting, batches))
            print(result["settings"][-1], flush=True)
            RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
