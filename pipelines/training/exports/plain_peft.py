"""Losses of exported LoRAs under peft alone: `python -m pipelines.training.exports.plain_peft < job.json`.

This process simulates a machine that serves the exports: `hydralora` cannot be imported in it.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# For each document: the token ids, and the position of the first answer token.
Documents = Sequence[tuple[Sequence[int], int]]


def answer_loss(model: Any, documents: Documents) -> float:
    """Mean loss per answer token in nats; documents are evaluated one by one."""
    import torch

    loss_sum = 0.0
    for input_ids, start in documents:
        tokens = torch.tensor([list(input_ids)], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=tokens).logits[0, start - 1 : -1].float()
        loss_sum += float(torch.nn.functional.cross_entropy(logits, tokens[0, start:], reduction="sum"))
    return loss_sum / n_answer_tokens(documents)


def n_answer_tokens(documents: Documents) -> int:
    """Number of answer tokens in all documents."""
    return sum(len(input_ids) - start for input_ids, start in documents)


def plain_peft_losses(
    base: Any, base_path: str, revision: str | None, adapters: Mapping[str, Path], documents: Mapping[str, Documents]
) -> dict[str, float]:
    """`answer_loss` under each adapter, in a new process that has transformers and peft but not `hydralora`.

    Args:
        base: base model, which gives dtype, device and attention implementation.
        base_path, revision: where the new process loads the base model from.
        adapters: name -> folder.
        documents: name -> documents, with the same names.

    Raises:
        RuntimeError: the process failed; the message has the end of its stderr.
    """
    job = {
        "base": base_path,
        "revision": revision,
        "dtype": str(base.dtype).removeprefix("torch."),
        "attention": base.config._attn_implementation,
        "device": str(base.device),
        "adapters": {name: [str(folder.resolve()), list(documents[name])] for name, folder in adapters.items()},
    }
    command = [sys.executable, "-m", "pipelines.training.exports.plain_peft"]
    process = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"An export does not load under peft alone:\n{process.stderr[-2000:]}")
    return json.loads(process.stdout)


def main() -> None:
    """Read a job from stdin, and print the losses."""
    sys.modules["hydralora"] = None  # type: ignore[assignment] # makes every import of hydralora fail
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = json.load(sys.stdin)
    base = AutoModelForCausalLM.from_pretrained(
        job["base"],
        revision=job["revision"],
        dtype=getattr(torch, job["dtype"]),
        attn_implementation=job["attention"],
    ).to(job["device"])
    losses = {}
    for name, (folder, documents) in job["adapters"].items():
        model = PeftModel.from_pretrained(base, folder).eval()
        losses[name] = answer_loss(model, documents)
        base = model.unload()
    json.dump(losses, sys.stdout)


if __name__ == "__main__":
    main()
