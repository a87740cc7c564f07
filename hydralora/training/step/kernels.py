"""Decides whether a run uses the fused kernels of liger-kernel."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydralora.base_model import default_device
from hydralora.base_model.fused_modules import fused_modules, has_kernels, liger_kernels
from hydralora.training.config import TrainingConfig, TrainingError


def wants_kernels(model: Any, config: TrainingConfig) -> bool:
    """Whether a run uses fused kernels.

    Raises:
        TrainingError: If they are required and cannot be used.
    """
    if config.fused_kernels is False:
        return False
    refusal = None
    if "cuda" not in (model.device.type, config.fsdp and default_device().type):
        refusal = f"the model is on {model.device.type}, and the kernels run on CUDA"
    elif not has_kernels():
        refusal = "liger-kernel is not installed: pip install hydralora[fast]"
    if refusal is not None and config.fused_kernels is True:
        raise TrainingError(f"fused_kernels: true, but {refusal}. Set fused_kernels: auto (or false).")
    return refusal is None


@contextmanager
def kernels_in(model: Any, wanted: bool) -> Iterator[dict[str, int] | None]:
    """Use fused kernels in a model while the context lasts.

    Yields:
        Number of modules of each kind that use one; None if `wanted` is False.
    """
    if not wanted:
        yield None
        return
    # With fsdp the model is on the CPU until it is split.
    device = model.device if model.device.type == "cuda" else default_device()
    with fused_modules(model, liger_kernels(), device) as counts:
        yield counts
