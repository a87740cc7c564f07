"""What one layer of LLaMA2-7B's shapes keeps for its backward pass, with autocast and without, on a CPU.

    PYTHONPATH=. python benchmarks/training/kept_inputs.py --output kept_inputs.json

It explains the memory of models that FSDP2 split before they ran in autocast (see docs/results/training-speed.md).
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from end_to_end_shapes import EXPERTS, Row, adapter
from peft import get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

from hydralora.training.outputs.record import write_json

TOKENS = 256


def kept_kib(model: Any, *, autocast: bool, **gates: torch.Tensor) -> float:
    """KiB a token that a forward pass keeps, without parameters."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        model(input_ids=torch.zeros(1, TOKENS, dtype=torch.long), **gates)
    return sum(kept.values()) / TOKENS / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    found = {}
    for name, rank in (("split", 8), ("one", 16)):
        config = LlamaConfig(vocab_size=64, num_hidden_layers=1)
        base: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        model = get_peft_model(base.requires_grad_(False), adapter(Row("7B", "ours", name, r=rank))).train()
        gates = {"expert_gates": torch.eye(EXPERTS)[:1]} if name == "split" else {}
        found[name] = {str(on): round(kept_kib(model, autocast=on, **gates), 1) for on in (True, False)}
        print(name, found[name])
    write_json(given.output, {"tokens": TOKENS, "kib_a_token_by_autocast": found})


if __name__ == "__main__":
    main()
