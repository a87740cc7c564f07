"""A 4-bit base model: HydraLoRA and LoRA trained on it, saved, read back, exported; memory and speed against bfloat16.

    python benchmarks/training/four_bit.py

Needs bitsandbytes; on a GPU if there is one. Real documents from `HYDRALORA_CORPORA` on the embedded base model.
"""

import argparse
import gc
import importlib.metadata
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from peft import PeftModel

import hydralora
from hydralora.base_model import load_base_model
from hydralora.data import TokenisedDocuments, collate, tokenise
from hydralora.evaluation.answer_loss import answer_logits
from hydralora.gates.export import export_lora
from hydralora.methods import MethodConfig
from hydralora.training import TrainingConfig
from hydralora.training.outputs.record import environment
from hydralora.training.run import train_method

REPOSITORY = Path(__file__).resolve().parents[2]
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
RESULTS = REPOSITORY / "benchmarks" / "results" / "four_bit.json"
SETTINGS = MethodConfig(num_experts=3, target_modules=("q_proj", "k_proj", "v_proj", "o_proj"))
METHODS = ("hydralora", "lora_r8")
PRECISIONS: tuple[tuple[str, Any], ...] = (("bfloat16", None), ("4bit", "4bit"))


def documents(tokenizer: Any) -> TokenisedDocuments:
    rows = pq.read_table(CORPORA / "gsm8k_train.parquet").slice(0, 500).to_pylist()
    records = [{"prompt": row["instruction"], "completion": row["output"], "source": "gsm8k"} for row in rows]
    return tokenise(records, tokenizer, template="plain", max_length=256)


def train(method: str, quantization: Any, steps: int, folder: Path) -> tuple[Any, dict[str, Any]]:
    """The trained model, and what its training took."""
    base, tokenizer = load_base_model("embedded", quantization=quantization, dtype=torch.bfloat16)
    memory = base.get_memory_footprint()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    config = TrainingConfig(max_steps=steps, tokens_per_step=4096, gradient_accumulation_steps=2)
    result = train_method(method, SETTINGS, base, tokenizer, documents(tokenizer), folder, config)
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    record = result.record
    return result.model, {
        "base_bytes": memory,
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "first_loss": curve[0]["loss"],
        "last_loss": curve[-1]["loss"],
        "tokens_per_second": round(record["tokens"] / record["seconds"]),
        "parameters": record["parameters"],
        "reload_difference": json.loads((folder / "run.json").read_text())["reload_difference"],
    }


@torch.inference_mode()
def export_difference(model: Any, folder: Path) -> dict[str, float]:
    """Predictions of the adapter with equal gates, against those of its export on a 4-bit base loaded anew.

    Mean KL divergences in nats: rounding to bfloat16 moves single logits by more than an export could.
    """
    base, tokenizer = load_base_model("embedded", quantization="4bit", dtype=torch.bfloat16)
    batch = collate(documents(tokenizer).rows(range(8)), 0)
    batch = {name: tensor.to(base.device) for name, tensor in batch.items()}
    plain_base = answer_logits(base, batch)[0]
    export_lora(model, folder, gates="uniform")
    hydralora.set_fixed_gates(model.eval(), "uniform")
    fixed = answer_logits(model, batch)[0]
    exported = answer_logits(PeftModel.from_pretrained(base, folder).eval(), batch)[0]
    return {"kl_adapter_to_export": divergence(fixed, exported), "kl_adapter_to_base": divergence(fixed, plain_base)}


def divergence(logits: torch.Tensor, others: torch.Tensor) -> float:
    p, q = (F.log_softmax(values.float(), dim=-1) for values in (logits, others))
    return float(F.kl_div(q, p, reduction="batchmean", log_target=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "environment": environment(),
        "bitsandbytes": importlib.metadata.version("bitsandbytes"),
        "steps": arguments.steps,
        "seed": 0,
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as temporary:
        for method in METHODS:
            for precision, quantization in PRECISIONS:
                folder = Path(temporary) / method / precision
                folder.mkdir(parents=True)
                model, values = train(method, quantization, arguments.steps, folder)
                if method == "hydralora" and quantization == "4bit":
                    values["export"] = export_difference(model, folder / "export")
                result["runs"].append({"method": method, "base": precision, **values})
                print(result["runs"][-1], flush=True)
                del model
                gc.collect()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
