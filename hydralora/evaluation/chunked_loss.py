"""Cross entropy over a large vocabulary, computed in chunks of tokens.

The logits of 4,096 tokens and a vocabulary of 49,152 take 0.8 GB in float32, and autograd keeps two such tensors. This
module computes loss and gradient together for each chunk and keeps only the gradient of the hidden states.
"""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Integer
from torch import Tensor, nn

CHUNK = 2048  # tokens; 0.4 GB of float32 logits for a vocabulary of 49,152


def can_chunk(layer: nn.Module) -> bool:
    """Whether an output layer is a plain frozen `nn.Linear` without hooks, or one that FSDP2 splits between processes.

    FSDP2 puts a split layer's weight together before the layer runs, and leaves it so until the backward pass.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")  # imported by whoever split the model
    is_split = fsdp is not None and isinstance(layer, fsdp.FSDPModule)
    hooks = len(layer._forward_hooks) + len(layer._forward_pre_hooks)
    return (
        isinstance(layer, nn.Linear)
        and type(layer).forward is nn.Linear.forward
        and (is_split or type(layer.weight) in (nn.Parameter, Tensor))
        and not layer.weight.requires_grad
        and hooks == (2 if is_split else 0)  # FSDP2's own
        and "forward" not in layer.__dict__
    )


def chunked_cross_entropy(
    hidden: Float[Tensor, "n d"], layer: nn.Linear, targets: Integer[Tensor, " n"], chunk: int = CHUNK
) -> Float32[Tensor, ""]:
    """Sum of cross entropies (nats, float32); differentiable once, in the hidden states alone.

    Args:
        hidden: Input of the output layer, [n, d].
        layer: Frozen output layer with logits [n, vocabulary].
        targets: Token ids [n]; those of torch's ignored index, -100, have no loss.
        chunk: Number of tokens whose logits are held at the same time.
    """
    return _ChunkedCrossEntropy.apply(hidden, layer.weight, layer.bias, targets, chunk)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk: int) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        states, matrix = hidden.to(dtype), weight.to(dtype)
        offset = None if bias is None else bias.to(dtype)
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(states) if needs_gradient else None
        loss = hidden.new_zeros((), dtype=torch.float32)
        for begin in range(0, len(states), chunk):
            part, words = states[begin : begin + chunk], targets[begin : begin + chunk, None]
            logits = F.linear(part, matrix, offset).float()
            log_normaliser = logits.logsumexp(1, keepdim=True)
            counts = words >= 0
            words = words.clamp(min=0)
            loss += (log_normaliser - logits.gather(1, words)).mul(counts).sum()
            if gradient is None:
                continue
            # Overwrite the logits by their gradient: softmax, minus 1 at the target.
            probabilities = logits.sub_(log_normaliser).exp_()
            probabilities.scatter_add_(1, words, probabilities.new_full((1, 1), -1.0).expand(words.shape))
            rows = gradient[begin : begin + chunk]
            torch.mm(probabilities.to(dtype), matrix, out=rows)
            rows.mul_(counts)
        ctx.hidden_dtype = hidden.dtype
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        [gradient] = ctx.saved_tensors
        return (gradient * upstream.to(gradient.dtype)).to(ctx.hidden_dtype), None, None, None, None
