"""The small pieces around the large matrix products: plain PyTorch here, Triton on CUDA (`triton_pieces`).

Shapes: T tokens, r rank, N routed experts, E column blocks of B (N, or N + 1 with an always-on expert whose gate is 1;
without a router every gate is 1). ``router_input`` says what ``router`` is: "low_rank" weights [N, r] on A x, "hidden"
weights [N, in] on the layer's input, "given" the gates themselves, [G, N] in float32: one row for each T / G tokens.
``low`` is all that the adapter saves for backward besides its input: A x, [T, r], or with "hidden" [A x | router
logits], [T, r + N].
"""

import torch
from torch import Tensor

from hydralora.ops.eager import router_gates, softmax_gates


def _gates(low: Tensor, router: Tensor | None, rank: int, router_input: str) -> Tensor | None:
    """[T, N] from what is saved; None without a router."""
    if router is None:
        return None
    if router_input == "given":
        return router.repeat_interleave(low.shape[0] // router.shape[0], dim=0)
    if router_input == "hidden":
        return softmax_gates(low[:, rank:])
    return router_gates(low[:, :rank], router)


def _block_gates(gates: Tensor | None, h: Tensor, blocks: int) -> Tensor:
    """[T, E]: the gates, and 1 for blocks the router does not know."""
    if gates is None:
        return h.new_ones(h.shape[0], blocks)
    return torch.nn.functional.pad(gates, (0, blocks - gates.shape[1]), value=1.0)


def gate(low: Tensor, router: Tensor | None, rank: int, blocks: int, scaling: float, router_input: str) -> Tensor:
    """u = scaling * (gates outer A x), [T, E * r]: what B multiplies."""
    h = low[:, :rank]
    gates = _block_gates(_gates(low, router, rank, router_input), h, blocks)
    return ((gates * scaling).unsqueeze(2) * h.unsqueeze(1)).flatten(1).to(low.dtype)


def project_and_gate(
    x: Tensor, weight_a: Tensor, router: Tensor | None, blocks: int, scaling: float, router_input: str
) -> tuple[Tensor, Tensor]:
    """Forward: (low, u) of x [T, in], A [r, in] and the router."""
    rows = torch.cat((weight_a, router)) if router_input == "hidden" and router is not None else weight_a
    low = x @ rows.t()
    return low, gate(low, router, weight_a.shape[0], blocks, scaling, router_input)


def gate_backward(
    grad_u: Tensor, low: Tensor, router: Tensor | None, rank: int, scaling: float, router_input: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Backward: (u again, gradient of low, gradient of the router) from the gradient of u, [T, E * r].

    With "hidden" the router's gradient is a product with the layer's input and so the caller's: None here. Gates that
    are given get none.
    """
    h = low[:, :rank]
    gates = _gates(low, router, rank, router_input)
    blocks = grad_u.shape[1] // rank
    block_gates = _block_gates(gates, h, blocks) * scaling
    u = (block_gates.unsqueeze(2) * h.unsqueeze(1)).flatten(1).to(low.dtype)
    grad_copies = grad_u.view(-1, blocks, rank)
    grad_h = (block_gates.unsqueeze(2) * grad_copies).sum(1)
    if gates is None or router is None or router_input == "given":
        return u, grad_h.to(low.dtype), None
    grad_gates = (grad_copies[:, : gates.shape[1]] * h.unsqueeze(1)).sum(2, dtype=gates.dtype) * scaling
    grad_logits = gates * (grad_gates - (gates * grad_gates).sum(1, keepdim=True))
    if router_input == "hidden":
        return u, torch.cat((grad_h, grad_logits), dim=1).to(low.dtype), None
    grad_logits = grad_logits.to(low.dtype)
    grad_h = grad_h.to(low.dtype).addmm_(grad_logits, router)
    return u, grad_h, grad_logits.t() @ h


def accumulate(y: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """y += u v in place: [T, d] += [T, k] [k, d], k small."""
    return y.addmm_(u, v)
