"""HydraLoRA in PEFT's comparison of methods on MetaMathQA: a rehearsal of its experiments on small data.

    python benchmarks/metamathqa/run.py llama-3.2-3B-shared16-rank4-experts8 --steps 20 --questions 4

`experiments/hydralora/` has the layout of `method_comparison/MetaMathQA` in PEFT's repository; docs/benchmarks.md
says how to run it there. This file reads the same two files of an experiment as PEFT's runner does, trains on GSM8K
(`HYDRALORA_CORPORA`) instead of MetaMathQA, and answers GSM8K's test questions greedily. Its scores mean nothing: it
shows that the configurations load, train, generate and save.
"""

import argparse
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from transformers import get_cosine_schedule_with_warmup

from hydralora.base_model import load_base_model
from hydralora.methods.parameters import count_parameters

FOLDER = Path(__file__).parent
CORPORA = Path(os.environ.get("HYDRALORA_CORPORA", FOLDER.parents[2] / "shared" / "corpora"))
TEMPLATE = "Question: {query} Think step by step.\nAnswer:"  # that of PEFT's comparison
BATCH_SIZE, MAX_LENGTH = 4, 768


def read(split: str, number: int) -> list[tuple[str, str]]:
    """Questions and worked answers."""
    table = pl.read_parquet(CORPORA / f"gsm8k_{split}.parquet").head(number)
    return list(zip(table["instruction"], table["output"], strict=True))


def train(model: Any, tokenizer: Any, parameters: dict[str, Any], steps: int) -> list[float]:
    """Losses of each step; all tokens of a text count, and one end token, as in PEFT's comparison."""
    options = parameters["optimizer_kwargs"]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], **options)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    texts = [TEMPLATE.format(query=query) + " " + answer for query, answer in read("train", steps * BATCH_SIZE)]
    losses = []
    model.train()
    for step in range(steps):
        rows = texts[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
        batch = tokenizer([row + tokenizer.eos_token for row in rows], padding=True, return_tensors="pt",
                          truncation=True, max_length=MAX_LENGTH)  # fmt: skip
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@torch.inference_mode()
def answers(model: Any, tokenizer: Any, questions: list[str]) -> list[str]:
    """Greedy answers of a left-padded batch."""
    model.eval()
    prompts = [TEMPLATE.format(query=query) for query in questions]
    batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    output = model.generate(**batch, max_new_tokens=64, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    texts: list[str] = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def last_number(text: str) -> str:
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)
    return numbers[-1].replace(",", "") if numbers else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="name of a folder in experiments/hydralora")
    parser.add_argument("--base-model", default="embedded", help="PEFT's comparison uses meta-llama/Llama-3.2-3B")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--output", type=Path, default=FOLDER.parent / "results" / "metamathqa.json")
    arguments = parser.parse_args()
    folder = FOLDER / "experiments" / "hydralora" / arguments.experiment
    base, tokenizer = load_base_model(arguments.base_model)
    torch.manual_seed(0)
    model: Any = get_peft_model(base, PeftConfig.from_pretrained(folder))
    started = time.perf_counter()
    losses = train(model, tokenizer, json.loads((folder / "training_params.json").read_text()), arguments.steps)
    seconds = time.perf_counter() - started
    questions = read("test", arguments.questions)
    found = answers(model, tokenizer, [question for question, _ in questions])
    with tempfile.TemporaryDirectory() as saved:
        model.save_pretrained(saved)
        size = (Path(saved) / "adapter_model.safetensors").stat().st_size
        base, _ = load_base_model(arguments.base_model)
        again = answers(PeftModel.from_pretrained(base, saved), tokenizer, [question for question, _ in questions])
    right = sum(last_number(a) == last_number(b) for a, (_, b) in zip(found, questions, strict=True))
    result = {
        "base_model": arguments.base_model,
        "trainable": count_parameters(model).total,
        "file_bytes": size,
        "losses": losses,
        "train_seconds": round(seconds, 1),
        "right": right,
        "questions": len(questions),
        "same_answers_after_loading": again == found,
    }
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    arguments.output.write_text(json.dumps({**results, arguments.experiment: result}, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
