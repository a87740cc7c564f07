"""Keeps activations in the machine's memory instead of the GPU's, between forward and backward pass.

With `gradient_checkpointing`, only the input of each layer is copied, which is little. Without it, everything that
layers keep is copied, which takes longer than computing it again.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from hydralora.training.config import TrainingConfig, TrainingError

_SMALL = 2**20  # bytes; a smaller tensor stays, because a copy of its own costs more than it saves


def check_can_offload(model: Any, config: TrainingConfig) -> None:
    """Check that activations can be kept in the machine's memory, if the run asks for it.

    Raises:
        TrainingError: If the model is not on a GPU, or the run splits it or records graphs.
    """
    refusal = None
    if not config.activation_offloading:
        return
    if config.fsdp:
        refusal = "fsdp holds weights that would be copied as if they were activations"
    elif model.device.type != "cuda":
        refusal = f"the model is on {model.device.type}, where activations are in the machine's memory anyway"
    elif config.cuda_graphs is True:
        refusal = "cuda_graphs: true replays kernels without these copies"
    if refusal is not None:
        raise TrainingError(f"activation_offloading: true, but {refusal}. Set activation_offloading: false.")


class Offloaded(saved_tensors_hooks):
    """While active, tensors that autograd saves are copied to the machine's memory, and back when they are needed.

    The values are the same bits. The GPU runs copies in order with its other work, so memory is free at once.

    Args:
        model: Its parameters are not copied: they stay on the GPU anyway.
        small: Tensors with fewer bytes are not copied.

    Attributes:
        copied: Bytes that were copied so far.
    """

    def __init__(self, model: nn.Module, small: int = _SMALL) -> None:
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.copied = 0

        def pack(tensor: Tensor) -> Any:
            if tensor.nbytes < small or tensor.untyped_storage().data_ptr() in weights:
                return tensor
            self.copied += tensor.nbytes
            host = torch.empty(tensor.shape, dtype=tensor.dtype, layout=tensor.layout, pin_memory=tensor.is_cuda)
            return tensor.device, host.copy_(tensor, non_blocking=tensor.is_cuda)

        def unpack(packed: Any) -> Tensor:
            if isinstance(packed, Tensor):
                return packed
            device, host = packed
            return host.to(device, non_blocking=True)

        super().__init__(pack, unpack)
