"""The small operations around the large matrix products: plain PyTorch here, Triton on CUDA (`triton_launch`).

Shapes: T tokens, r rank of an expert, s rank of the shared LoRA (usually 0), N routed experts, E column blocks of B (N,
or N + 1 with a shared expert whose gate is 1; without `gating` every gate is 1). A is [r + s, in] and B is
[out, E * r + s]; the shared LoRA comes last.
``router_input`` defines what ``gating`` holds. "low_rank": a router's weight [N, r] on the experts' A x. "hidden": a
router's weight [N, in] on the layer's input. "given": the gates [G, N] in float32, or integers [G], the index of the
one expert that is on (then E = N); each row is for T / G consecutive tokens.
``low`` is all that the adapter saves for backward besides its input: [A x | A_s x], [T, r + s], or with "hidden"
[A x | A_s x | router logits], [T, r + s + N].
"""

import torch
from torch import Tensor

from hydralora.ops.eager import one_hot_gates, router_gates, softmax_gates


def _gates(low: Tensor, gating: Tensor | None, rank: int, shared_rank: int, blocks: int, kind: str) -> Tensor | None:
    """Gates [T, N] from the saved `low`; None without `gating`."""
    if gating is None:
        return None
    if kind == "given":
        gates = gating if gating.is_floating_point() else one_hot_gates(gating, blocks)
        return gates.repeat_interleave(low.shape[0] // max(gates.shape[0], 1), dim=0)
    if kind == "hidden":
        return softmax_gates(low[:, rank + shared_rank :])
    return router_gates(low[:, :rank], gating)


def _block_gates(gates: Tensor | None, h: Tensor, blocks: int) -> Tensor:
    """Gates [T, E] of all blocks; 1 for blocks that have no gate."""
    if gates is None:
        return h.new_ones(h.shape[0], blocks)
    return torch.nn.functional.pad(gates, (0, blocks - gates.shape[1]), value=1.0)


def _gated(low: Tensor, gates: Tensor, rank: int, shared_rank: int, shared_scaling: float) -> Tensor:
    """u [T, E * r + s] from gates [T, E] that are already scaled."""
    u = (gates.unsqueeze(2) * low[:, :rank].unsqueeze(1)).flatten(1)
    if shared_rank:
        u = torch.cat((u, low[:, rank : rank + shared_rank] * shared_scaling), dim=1)
    return u.to(low.dtype)


def project_and_gate(
    x: Tensor,
    weight_a: Tensor,
    gating: Tensor | None,
    blocks: int,
    scaling: float,
    router_input: str,
    shared_rank: int = 0,
    shared_scaling: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Forward: (low, u) of x [T, in].

    u = [scaling * (gates outer A x) | shared_scaling * A_s x], [T, E * r + s], is the input of B.
    """
    rows = torch.cat((weight_a, gating)) if router_input == "hidden" and gating is not None else weight_a
    low = x @ rows.t()
    rank = weight_a.shape[0] - shared_rank
    gates = _gates(low, gating, rank, shared_rank, blocks, router_input)
    return low, _gated(low, _block_gates(gates, low, blocks) * scaling, rank, shared_rank, shared_scaling)


def gate_backward(
    grad_u: Tensor,
    low: Tensor,
    gating: Tensor | None,
    rank: int,
    scaling: float,
    router_input: str,
    shared_rank: int = 0,
    shared_scaling: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Backward: (u again, gradient of low, gradient of `gating`) from the gradient of u, [T, E * r + s].

    The gradient of `gating` is None with "hidden", because the caller computes it as a product with the layer's input.
    It is also None for given gates.
    """
    h = low[:, :rank]
    blocks = (grad_u.shape[1] - shared_rank) // rank
    gates = _gates(low, gating, rank, shared_rank, blocks, router_input)
    block_gates = _block_gates(gates, h, blocks) * scaling
    u = _gated(low, block_gates, rank, shared_rank, shared_scaling)
    grad_copies = grad_u[:, : blocks * rank].unflatten(1, (blocks, rank))
    grad_h = (block_gates.unsqueeze(2) * grad_copies).sum(1)
    grad_shared = grad_u[:, blocks * rank :] * shared_scaling  # [T, s]
    if gates is None or gating is None or router_input == "given":
        return u, _columns(low.dtype, grad_h, grad_shared), None
    grad_gates = (grad_copies[:, : gates.shape[1]] * h.unsqueeze(1)).sum(2, dtype=gates.dtype) * scaling
    grad_logits = gates * (grad_gates - (gates * grad_gates).sum(1, keepdim=True))
    if router_input == "hidden":
        return u, _columns(low.dtype, grad_h, grad_shared, grad_logits), None
    grad_logits = grad_logits.to(low.dtype)
    grad_h = grad_h.to(low.dtype).addmm_(grad_logits, gating)
    return u, _columns(low.dtype, grad_h, grad_shared), grad_logits.t() @ h


def _columns(dtype: torch.dtype, *parts: Tensor) -> Tensor:
    """Concatenate the parts along the columns; parts without columns are skipped."""
    kept = [part.to(dtype) for part in parts if part.shape[1]]
    return kept[0] if len(kept) == 1 else torch.cat(kept, dim=1)


def accumulate(y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """y += u v in place: [T, d] += [T, k] [k, d], for small k."""
    return y.addmm_(u, v)
