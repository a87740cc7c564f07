"""Kernels that add in a fixed order. Apart from the other modules: Ray imports it in each of its processes."""

import torch


def deterministic() -> None:
    """Let kernels add in a fixed order; with `warn_only`, flash attention would stay as it is."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
