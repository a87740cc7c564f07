"""Auxiliary losses on gates: spread the load over experts, or teach routers the clusters of the corpus.

Both are computed for each layer and then averaged. Pooling the gates of all layers first would hide collapse: layers
that each use a single expert look balanced together if they use different ones. Padding does not count. A large balance
weight forces the gates to 1/N, as in the ablation without a gate. The literature starts at 0.01.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from hydralora.gates.statistics import Masks, token_weights


def balance_loss(gates: Mapping[str, Float[Tensor, "..."]], mask: Masks = None) -> Float[Tensor, ""]:
    """Squared coefficient of variation of the experts' mean gates, N sum_i mean_i^2 - 1, averaged over layers.

    This is the importance loss of Shazeer et al. (arXiv 1701.06538, section 4). The gates here are never cut to the top
    k, so it also equals the Switch Transformer's N sum_i f_i P_i (arXiv 2101.03961, section 2.2) minus 1, with load
    f_i = P_i.

    Args:
        gates: Gates [batch, length, N] by layer name, recorded with gradients.
        mask: Mask [batch, length], 0 for padding, or one mask for each layer by name.

    Returns:
        A scalar from 0 (every expert has the same mean gate) to N - 1 (one expert has it all).
    """
    losses = []
    for name, layer in _layers(gates):
        mean = _masked_mean(layer, token_weights(name, layer, mask))  # [N]
        losses.append(layer.shape[-1] * mean.square().sum() - 1)
    return torch.stack([loss.to(losses[0].device) for loss in losses]).mean()


def cluster_loss(
    gates: Mapping[str, Float[Tensor, "..."]],
    clusters: Shaped[Tensor, " batch"] | Shaped[Tensor, "batch N"],
    mask: Masks = None,
) -> Float[Tensor, ""]:
    """Cross entropy (nats) between each token's gates and its document's cluster, averaged over tokens and layers.

    To guide routers only at the start of training, let the weight of this loss fall to 0.

    Args:
        gates: Gates [batch, length, N] by layer name, recorded with gradients.
        clusters: Expert of each document's cluster [batch], or soft assignments [batch, N].
        mask: Mask [batch, length], 0 for padding, or one mask for each layer by name.

    Raises:
        ValueError: If a cluster has no expert, a mask does not fit, or the rows of a layer are not known.
    """
    num_experts = next(layer for _, layer in _layers(gates)).shape[-1]
    if clusters.dim() == 1:
        if clusters.max() >= num_experts:
            raise ValueError(f"Expected clusters below the {num_experts} experts, got {int(clusters.max())}")
        clusters = torch.nn.functional.one_hot(clusters, num_experts)
    if clusters.shape[-1] != num_experts:
        raise ValueError(f"Expected soft assignments to {num_experts} experts, got {clusters.shape[-1]}")
    losses = []
    for name, layer in _layers(gates):
        if layer.dim() != 3 or len(layer) != len(clusters):
            raise ValueError(
                f"Expected gates [{len(clusters)}, length, N] for the clusters of {len(clusters)} documents, got "
                f"{list(layer.shape)} from layer {name}. Exclude such layers (`exclude_modules`)."
            )
        log_gates = layer.clamp_min(torch.finfo(layer.dtype).tiny).log()
        targets = clusters[:, None].to(layer)  # [batch, 1, N]
        cross_entropy = -(targets * log_gates).sum(-1, keepdim=True)
        losses.append(_masked_mean(cross_entropy, token_weights(name, layer, mask))[0])
    return torch.stack([loss.to(losses[0].device) for loss in losses]).mean()


def _layers(gates: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    if not gates:
        raise ValueError("Expected gates of at least one layer, got none: did a forward pass run within record_gates?")
    return iter(gates.items())


def _masked_mean(values: Float[Tensor, "*tokens n"], weights: Shaped[Tensor, "*tokens"]) -> Float[Tensor, " n"]:
    """Mean of [..., n] over the tokens of weight 1, [n]."""
    weights = weights.unsqueeze(-1)
    return (values * weights).flatten(0, -2).sum(0) / weights.sum()
