"""Statistics of gates over groups of tokens, summed batch by batch."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# [batch, length], 0 for padding; one by layer name if layers see different tokens; None if all tokens count.
Masks = Tensor | Mapping[str, Tensor | None] | None


class GateStatistics:
    """Sums over the tokens of each group, updated batch by batch: gates, their entropy, and how often each expert wins.

    Args:
        num_groups: Number of groups of tokens; 1 if `update` gets no groups.

    Attributes (float64, on the device of the gates; M layers, G groups, N experts):
        modules: Names of the layers, known after the first update.
        layer_tokens: Number of tokens that each layer saw, without padding, [M, G].
        num_tokens: The same for the first layer, [G]. Layers differ in models with an encoder and a decoder.
        gate_sums: Sums of gates, [M, G, N].
        usage_sums: Number of tokens for which the expert has the largest gate, [M, G, N].
        entropy_sums: Sums of the entropy of gates in nats, [M, G].
    """

    def __init__(self, num_groups: int = 1) -> None:
        self.modules: tuple[str, ...] = ()
        self.num_groups = num_groups
        self.layer_tokens = self.gate_sums = self.usage_sums = self.entropy_sums = torch.zeros(0)

    @property
    def num_tokens(self) -> Tensor:
        """Tokens seen so far by the first layer."""
        return self.layer_tokens[0] if len(self.layer_tokens) else self.layer_tokens

    @torch.no_grad()
    def update(self, gates: Mapping[str, Tensor], mask: Masks = None, groups: Tensor | None = None) -> None:
        """Add the tokens of a batch.

        Args:
            gates: Gates [batch, length, N] by layer name, from `record_gates`.
            mask: Mask [batch, length], 0 for padding; None counts every token. If layers see different tokens, one mask
                for each layer by name. A layer that sees one vector for each sequence counts each vector.
            groups: Integers in [0, num_groups), [batch] or [batch, length].

        Raises:
            ValueError: If a mask or the groups do not fit, or the layers differ from those of the first update.
        """
        if not self.modules:
            self._start(gates)
        if tuple(gates) != self.modules:
            raise ValueError(f"Expected gates of the {len(self.modules)} layers of the first update, got {list(gates)}")
        for layers in _alike(gates, mask):
            stacked = torch.stack([gates[self.modules[i]].detach().to(gates[self.modules[0]]) for i in layers])
            name = self.modules[layers[0]]
            weights = self._weights(token_weights(name, stacked[0], mask), groups, stacked)  # [G, T]
            stacked = stacked.flatten(1, -2)  # [m, T, N]
            winners = nn.functional.one_hot(stacked.argmax(-1), stacked.shape[-1]).to(stacked)
            entropies = torch.special.entr(stacked).sum(-1)  # [m, T]
            self.layer_tokens[layers] += weights.sum(-1)
            self.gate_sums[layers] += weights @ stacked
            self.usage_sums[layers] += weights @ winners
            self.entropy_sums[layers] += entropies @ weights.t()

    def _start(self, gates: Mapping[str, Tensor]) -> None:
        self.modules = tuple(gates)
        first = gates[self.modules[0]]
        shape = (len(self.modules), self.num_groups, first.shape[-1])
        self.gate_sums = torch.zeros(shape, dtype=torch.float64, device=first.device)
        self.usage_sums = torch.zeros_like(self.gate_sums)
        self.layer_tokens, self.entropy_sums = self.gate_sums[..., 0].clone(), self.gate_sums[..., 0].clone()

    def _weights(self, kept: Tensor, groups: Tensor | None, stacked: Tensor) -> Tensor:
        """Weights [G, T]: 1 for each token that belongs to the group and is not padding, else 0."""
        if groups is None:
            return kept.reshape(1, -1)
        of_token = groups.to(stacked.device)
        shape = stacked.shape[1:-1]  # [batch, length], or [tokens] for a layer without a batch axis
        if of_token.dim() == 1 and len(shape) == 2 and len(of_token) == shape[0]:
            of_token = of_token[:, None].expand(shape)
        if of_token.shape != shape:
            raise ValueError(f"Expected groups for gates of shape {tuple(shape)}, got {tuple(groups.shape)}")
        one_hot = nn.functional.one_hot(of_token.reshape(-1), self.num_groups).t().to(stacked)
        return one_hot * kept.reshape(-1)

    def mean(self) -> Tensor:
        """Mean gates [M, G, N]; NaN for a group without tokens."""
        return self.gate_sums / self.layer_tokens[..., None]

    def usage(self) -> Tensor:
        """Share of tokens for which an expert has the largest gate, [M, G, N]."""
        return self.usage_sums / self.layer_tokens[..., None]

    def entropy(self) -> Tensor:
        """Mean entropy of a token's gates divided by log N, [M, G]: 0 if one expert has all, 1 if all are equal."""
        return self.entropy_sums / self.layer_tokens / math.log(self.gate_sums.shape[-1])


def _alike(gates: Mapping[str, Tensor], mask: Masks) -> list[list[int]]:
    """Groups of layer indices; the layers of a group have gates of the same shape and the same mask."""
    alike: dict[Any, list[int]] = {}
    for i, (name, layer) in enumerate(gates.items()):
        own = mask.get(name) if isinstance(mask, Mapping) else None
        alike.setdefault((layer.shape, id(own)), []).append(i)
    return list(alike.values())


def token_weights(name: str, gates: Tensor, mask: Masks) -> Tensor:
    """Weights [...] for a layer's gates [..., N]: 1 for each token that is not padding, else 0.

    Raises:
        ValueError: If the mask does not fit.
    """
    own = mask.get(name) if isinstance(mask, Mapping) else mask
    shape = gates.shape[:-1]
    if own is None or (len(shape) == 2 and shape[0] == own.shape[0] and shape[1] == 1):
        return gates.new_ones(shape)
    if own.shape != shape:
        raise ValueError(
            f"Expected a mask for the {math.prod(shape)} tokens that have gates, got one for {own.numel()}: layer "
            f"{name} saw {tuple(shape)}, the mask is {tuple(own.shape)}. If layers see different tokens, "
            f"give a mask for each by its name, or exclude such layers (`exclude_modules`)."
        )
    return (own != 0).to(gates)  # masks of packed rows number the documents 1, 2, 3
