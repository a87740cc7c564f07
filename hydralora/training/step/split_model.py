"""A model that FSDP2 splits between processes: its precision, and its weights put together again."""

from typing import Any

import torch
from torch import Tensor, nn

from hydralora.base_model.fingerprint import base_parameters
from hydralora.training.config import TrainingConfig


def split_precision(config: TrainingConfig, *, trains_adapter: bool) -> Any:
    """FSDP2's `MixedPrecisionPolicy`; None leaves every parameter in its own dtype.

    An adapter stays in float32 and its gradients are added in float32, as without fsdp; `run_in_autocast` does the
    rest. Its base model is sent in its own dtype. Training of all weights sends bfloat16 copies: half the bytes.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if trains_adapter or not config.autocast:
        return None
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def run_in_autocast(model: nn.Module, device_type: str) -> None:
    """Run the forward passes of a model in bfloat16 autocast from now on.

    accelerate does this for other models, but expects that a policy sets the precision of one that FSDP2 splits. An
    adapter in float32 would then compute in float32, not in the fused function, and keep its inputs twice as long.
    """
    model.forward = torch.autocast(device_type, torch.bfloat16)(model.forward)


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights of an adapter in the machine's memory, by their names in `state_dict`; all processes must call this."""
    from torch.distributed.tensor import DTensor

    base = {id(parameter) for parameter in base_parameters(model).values()}
    left_out = {name for name, parameter in model.named_parameters() if id(parameter) in base}
    weights = {name: value for name, value in model.state_dict().items() if name not in left_out}
    return {n: (value.full_tensor() if isinstance(value, DTensor) else value).cpu() for n, value in weights.items()}
