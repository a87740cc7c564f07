"""Auxiliary losses on gates: spread the load over experts, or teach routers the clusters of the corpus.

Both are computed layer by layer and then averaged. Pooling the gates of all layers first would hide collapse: layers
that each use one expert look balanced when their favourites differ. Padding is left out. A large balance weight pins
the gates to 1/N, which is the ablation without a gate; 0.01 is where the literature starts.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def balance_loss(gates: Mapping[str, Tensor], mask: Tensor | None = None) -> Tensor:
    """Squared coefficient of variation of the experts' mean gates, N sum_i mean_i^2 - 1, averaged over layers.

    The importance loss of Shazeer et al. (arXiv 1701.06538, section 4). For gates that are never cut to the top k, as
    here, it is the Switch Transformer's N sum_i f_i P_i (arXiv 2101.03961, section 2.2) minus 1, with load f_i = P_i.

    Args:
        gates: [batch, length, N] of each layer, recorded with gradients.
        mask: [batch, length], 0 for padding.

    Returns:
        A scalar from 0 (every expert has the same mean gate) to N - 1 (one expert has it all).
    """
    losses = []
    for layer in gates.values():
        mean = _masked_mean(layer, mask)  # [N]
        losses.append(layer.shape[-1] * mean.square().sum() - 1)
    return torch.stack([loss.to(losses[0].device) for loss in losses]).mean()


def cluster_loss(gates: Mapping[str, Tensor], clusters: Tensor, mask: Tensor | None = None) -> Tensor:
    """Cross entropy (nats) between each token's gates and its document's cluster, averaged over tokens and layers.

    To guide routers at the start of training only, let the weight of this loss fall to 0.

    Args:
        gates: [batch, length, N] of each layer, recorded with gradients.
        clusters: expert that belongs to each document's cluster [batch], or soft assignments [batch, N].
        mask: [batch, length], 0 for padding.

    Raises:
        ValueError: clusters beyond the experts.
    """
    num_experts = next(iter(gates.values())).shape[-1]
    if clusters.dim() == 1:
        if clusters.max() >= num_experts:
            raise ValueError(f"Expected clusters below the {num_experts} experts, got {int(clusters.max())}")
        clusters = torch.nn.functional.one_hot(clusters, num_experts)
    if clusters.shape[-1] != num_experts:
        raise ValueError(f"Expected soft assignments to {num_experts} experts, got {clusters.shape[-1]}")
    losses = []
    for layer in gates.values():
        log_gates = layer.clamp_min(torch.finfo(layer.dtype).tiny).log()
        targets = clusters[:, None].to(layer)  # [batch, 1, N]
        losses.append(_masked_mean(-(targets * log_gates).sum(-1, keepdim=True), mask)[0])
    return torch.stack([loss.to(losses[0].device) for loss in losses]).mean()


def _masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of [batch, length, n] over the tokens that are no padding, [n]."""
    if mask is None:
        return values.mean((0, 1))
    weights = mask.to(values).unsqueeze(-1)
    return (values * weights).sum((0, 1)) / weights.sum()
