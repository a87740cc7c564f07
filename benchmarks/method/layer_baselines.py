"""What `layer_speed` compares: the published per-expert loop written plainly, and how each method adapts a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

ATTENTION = ["q_proj", "v_proj"]
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {"q,v": ATTENTION, "all-linear": ALL_LINEAR}


class LoopLinear(nn.Module):
    """HydraLoRA as its equation reads, expert by expert: N products, N output-sized tensors, A x once an expert.

    The router reads the layer's input, as in the authors' code (here in our own words).
    """

    def __init__(self, base: nn.Linear, r: int, num_experts: int, scaling: float) -> None:
        super().__init__()
        place = {"device": base.weight.device, "dtype": base.weight.dtype, "bias": False}
        self.base, self.scaling = base, scaling
        self.a = nn.Linear(base.in_features, r, **place)
        self.experts = nn.ModuleList(nn.Linear(r, base.out_features, **place) for _ in range(num_experts))
        self.router = nn.Linear(base.in_features, num_experts, **place)

    def forward(self, x: Tensor) -> Tensor:
        result = self.base(x)
        gates = torch.softmax(self.router(x), dim=-1, dtype=torch.float32).to(result.dtype)
        for i, expert in enumerate(self.experts):
            result = result + gates[..., i].unsqueeze(-1) * expert(self.a(x)) * self.scaling
        return result


@dataclass(frozen=True)
class Method:
    """A name for the tables and what puts trainable parameters on a frozen model (in place)."""

    name: str
    adapt: Callable[[nn.Module, list[str]], None]


def frozen_base() -> Method:
    return Method("frozen base", lambda model, targets: None)


def lora(r: int) -> Method:
    from peft import LoraConfig

    return _peft_method(f"PEFT LoRA r={r}", lambda targets: LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets))


def lily(r: int, num_experts: int) -> Method:
    from peft import LilyConfig

    config = {"r": r, "num_B": num_experts, "scaling": 2.0}
    return _peft_method(
        f"PEFT Lily r={r} num_B={num_experts}", lambda targets: LilyConfig(**config, target_modules=targets)
    )


def hydralora(num_experts: int, router_input: str = "low_rank") -> Method:
    from hydralora import HydraLoraConfig

    config = {"r": 8, "lora_alpha": 16, "num_experts": num_experts, "router_input": router_input}
    suffix = "" if router_input == "low_rank" else f" ({router_input})"
    name = f"HydraLoRA N={num_experts}{suffix}"
    return _peft_method(name, lambda targets: HydraLoraConfig(**config, target_modules=targets))


def given_gates(num_experts: int) -> Method:
    """No router: one of the experts is on, and one more always."""
    config = {"r": 8, "lora_alpha": 16, "num_experts": num_experts, "router_input": "given", "shared_expert": True}
    return _hydralora(f"HydraLoRA N={num_experts} + 1, gates given", config, "sequence")


def split(num_experts: int, gates: str = "sequence", r: int = 3, shared_rank: int = 16) -> Method:
    """An always-on LoRA beside experts. `gates`: "sequence" or "token" (one-hot, float), "index" (the number of a
    token's expert), or a router: "low_rank", "hidden"."""
    router_input = gates if gates in ("low_rank", "hidden") else "given"
    config = {"r": r, "lora_alpha": 2 * r, "num_experts": num_experts, "router_input": router_input}
    return _hydralora(f"split {shared_rank}+{num_experts}x{r} ({gates})", {**config, "shared_rank": shared_rank}, gates)


def _hydralora(name: str, config: dict[str, Any], gates: str) -> Method:
    """HydraLoRA of this configuration; `TrainingStep` gives the gates to each call."""
    from hydralora import HydraLoraConfig

    plain = _peft_method(name, lambda targets: HydraLoraConfig(**config, target_modules=targets))

    def adapt(model: nn.Module, targets: list[str]) -> None:
        plain.adapt(model, targets)
        if config["router_input"] == "given":
            model.benchmark_gates = partial(gates_of, gates, config["num_experts"])

    return Method(name, adapt)


def gates_of(kind: str, num_experts: int, batch: int, length: int) -> Tensor:
    """One expert for each sequence, or for each run of 128 tokens, as a packed row has documents of several groups."""
    if kind == "sequence":
        return torch.eye(num_experts)[torch.arange(batch) % num_experts]
    documents = torch.arange(batch)[:, None] * 5 + torch.arange(length)[None] // 128
    index = documents % num_experts
    return index.int() if kind == "index" else torch.eye(num_experts)[index]


def loop(num_experts: int) -> Method:
    def adapt(model: nn.Module, targets: list[str]) -> None:
        for parent, name, base in _linears(model, targets):
            setattr(parent, name, LoopLinear(base, r=8, num_experts=num_experts, scaling=2.0))

    return Method(f"loop N={num_experts}", adapt)


def _peft_method(name: str, config: Callable[[list[str]], object]) -> Method:
    def adapt(model: nn.Module, targets: list[str]) -> None:
        from peft import get_peft_model

        # Weights in the base's dtype for all methods: the same arithmetic, and no casts of x in PEFT's layers.
        get_peft_model(model, config(targets), autocast_adapter_dtype=False)

    return Method(name, adapt)


@contextmanager
def adapted(model: nn.Module, method: Method, targets: list[str]) -> Iterator[nn.Module]:
    """The model with the method's layers, trainable parameters random (zeros run faster than data); undone at exit."""
    originals = list(_linears(model, targets))
    frozen = set(model.parameters())
    method.adapt(model, targets)
    generator = torch.Generator(device=next(model.parameters()).device).manual_seed(0)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter not in frozen)
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.normal_(std=0.02, generator=generator)
    try:
        yield model
    finally:
        for parent, name, base in originals:
            setattr(parent, name, base)
        for attribute in ("peft_config", "benchmark_gates"):
            model.__dict__.pop(attribute, None)


def _linears(model: nn.Module, targets: list[str]) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if name in targets and type(child) is nn.Linear:
                yield parent, name, child
