"""The parts of an adapter's state dict: layer, module, matrix and head of every tensor."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
State = Mapping[str, NDArray[np.generic]]

SHARED_LORA = "shared LoRA"
"""Head name of the always-on LoRA besides the experts."""

OUTSIDE = -1
"""Layer of modules outside the numbered layers, such as `lm_head`."""

# `base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight`; the adapter's name may stand before `.weight`.
_PART = r"\.(?P<part>lora_[AB]|hydralora_(?:A|B|router))(?:\.\w+)?\.weight$"
_KEYS = (
    re.compile(r"(?:^|\.)(?P<layer>\d+)\.(?P<module>[^\d.][\w.]*?)" + _PART),
    re.compile(r"(?:^|\.)(?P<module>\w+)" + _PART),  # `base_model.model.lm_head.lora_A.weight`
)


@dataclass(frozen=True)
class Submodule:
    """One matrix of one head at one place in the model.

    Attributes:
        head: name of the adapter, or of an expert in it.
        layer: number of the layer, or `OUTSIDE`.
        module: path of the adapted module within its layer, such as "self_attn.q_proj".
        matrix: "A" or "B".
        rows: [r, dim], the r directions that the matrix reads (A) or writes (B transposed).
    """

    head: str
    layer: int
    module: str
    matrix: Literal["A", "B"]
    rows: Matrix

    @property
    def place(self) -> tuple[int, str]:
        """Layer and module."""
        return self.layer, self.module


def submodules(state: State, name: str, *, shared_expert: bool = False, shared_rank: int = 0) -> list[Submodule]:
    """The matrices of an adapter, ordered by layer and module.

    A LoRA has one head, `name`. In a HydraLoRA, A belongs to the head `name`, and block i of B's columns belongs to the
    head `expert i`. A shared expert is the last block. A shared LoRA is a head of its own: it has the last rows of A
    and the last columns of B.

    Args:
        state: parameter name -> array, as `safetensors.numpy.load_file` returns it.
        shared_expert: whether the last block of B is the always-on expert, the head `shared expert`.
        shared_rank: rank of the always-on LoRA, the head `shared LoRA`; 0 if there is none.

    Raises:
        ValueError: the state has no adapter parameters, a B without its A, or a B whose number of columns is not a
            multiple of A's rank.
    """
    parts = _parts(state)
    found: list[Submodule] = []
    for (layer, module), matrices in sorted(parts.items()):
        a = matrices.get("lora_A", matrices.get("hydralora_A"))
        b = matrices.get("lora_B", matrices.get("hydralora_B"))
        if a is None or b is None:
            raise ValueError(f"{name}, layer {layer} {module}: expected both A and B, got {', '.join(matrices)}")
        if "lora_B" in matrices:
            found += [Submodule(name, layer, module, "A", a), Submodule(name, layer, module, "B", b.T)]
            continue
        if shared_rank:
            found.append(Submodule(SHARED_LORA, layer, module, "A", a[-shared_rank:]))
            found.append(Submodule(SHARED_LORA, layer, module, "B", b[:, -shared_rank:].T))
            a, b = a[:-shared_rank], b[:, :-shared_rank]
        found.append(Submodule(name, layer, module, "A", a))
        for head, block in _expert_blocks(b, len(a), f"{name}, layer {layer} {module}", shared_expert):
            found.append(Submodule(head, layer, module, "B", block.T))
    if not found:
        raise ValueError(
            f"{name}: expected keys such as 'model.layers.0.self_attn.q_proj.lora_A.weight', got {list(state)[:3]}"
        )
    return found


def parameter_counts(state: State) -> dict[str, int]:
    """Number of parameters of each part of an adapter: A, B and router (0 without a router)."""
    counts = {"A": 0, "B": 0, "router": 0}
    for matrices in _parts(state).values():
        for part, values in matrices.items():
            counts[part.split("_")[1]] += values.size
    return counts


def _parts(state: State) -> dict[tuple[int, str], dict[str, Matrix]]:
    parts: dict[tuple[int, str], dict[str, Matrix]] = {}
    for key, values in state.items():
        if match := next(filter(None, (pattern.search(key) for pattern in _KEYS)), None):
            place = int(match.groupdict().get("layer", OUTSIDE)), match["module"]
            parts.setdefault(place, {})[match["part"]] = np.asarray(values, np.float32)
    return parts


def _expert_blocks(b: Matrix, rank: int, where: str, shared_expert: bool) -> Iterator[tuple[str, Matrix]]:
    n_blocks, rest = divmod(b.shape[1], rank)
    if rest:
        raise ValueError(f"{where}: expected columns of B in blocks of r = {rank}, got {b.shape[1]} columns")
    for i in range(n_blocks):
        is_shared = shared_expert and i == n_blocks - 1
        yield ("shared expert" if is_shared else f"expert {i}"), b[:, i * rank : (i + 1) * rank]
