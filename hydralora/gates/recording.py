"""What the routers do: gates recorded for each layer and token, and their statistics for groups of tokens.

with record_gates(model) as gates:
    loss = model(**batch).loss
loss = loss + 0.01 * balance_loss(gates, batch["attention_mask"])
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hydralora.adapter.layer import GateObserver
from hydralora.adapter.state import adapter_state, hydralora_layers


@contextmanager
def record_gates(model: nn.Module, adapter_name: str = "default") -> Iterator[dict[str, Tensor]]:
    """Collect the gates of each layer's last forward pass while the context lasts.

    They are the gates that were used (dropout included), with gradients where the forward pass has them. Layers take
    their plain path meanwhile, which costs little (benchmarks/gate_statistics.py). Under gradient checkpointing the
    context must last until after `backward`, which runs layers again and must find them as they were.

    Args:
        model: with the adapter active.
        adapter_name: of several adapters.

    Yields:
        A dict, filled by forward passes: layer name -> gates [batch, length, N]. It holds layers in their order in the
        model, and stays as it is when the context ends.

    Raises:
        ValueError: no such adapter, or one with a single expert, which has no gates.
    """
    layers = hydralora_layers(model, adapter_name)
    state = adapter_state(model, adapter_name)
    state.refuse_merged("record gates", any_adapter=True)
    state.refuse_disabled("record gates")
    if any(layer.num_experts[adapter_name] == 1 for layer in layers.values()):
        raise ValueError(
            f"Expected an adapter with gates, got {adapter_name!r} with a single expert, which is plain LoRA"
        )
    gates: dict[str, Tensor] = {}
    before = [layer.gate_observer for layer in layers.values()]
    for name, layer in layers.items():
        layer.gate_observer = _observer(gates, name, adapter_name)
    try:
        yield gates
    finally:
        for layer, observer in zip(layers.values(), before, strict=True):
            layer.gate_observer = observer


def _observer(gates: dict[str, Tensor], name: str, adapter_name: str) -> GateObserver:
    def observe(adapter: str, layer_gates: Tensor) -> None:
        if adapter == adapter_name:
            gates[name] = layer_gates

    return observe


class GateStatistics:
    """Sums over tokens, updated batch by batch: gates, their entropy, and which expert wins, within groups of tokens.

    Args:
        num_groups: groups of tokens; one, unless `update` is told groups.

    Attributes (float64, on the device of the gates; M layers, G groups, N experts):
        modules: names of the layers, known from the first update on.
        num_tokens: [G], padding left out.
        gate_sums: [M, G, N].
        usage_sums: [M, G, N], tokens for which the expert has the largest gate.
        entropy_sums: [M, G], in nats.
    """

    def __init__(self, num_groups: int = 1) -> None:
        self.modules: tuple[str, ...] = ()
        self.num_groups = num_groups
        self.num_tokens = self.gate_sums = self.usage_sums = self.entropy_sums = torch.zeros(0)

    @torch.no_grad()
    def update(self, gates: Mapping[str, Tensor], mask: Tensor | None = None, groups: Tensor | None = None) -> None:
        """Add the tokens of a batch.

        Args:
            gates: [batch, length, N] of each layer, from `record_gates`.
            mask: [batch, length], 0 for padding; None counts every token.
            groups: integers in [0, num_groups), [batch] or [batch, length].

        Raises:
            ValueError: a mask that does not fit, or other layers than in the first update.
        """
        stacked = _stack(gates)  # [M, T, N]
        weights = self._weights(mask, groups, stacked)  # [G, T]
        winners = nn.functional.one_hot(stacked.argmax(-1), stacked.shape[-1]).to(stacked)
        entropies = torch.special.entr(stacked).sum(-1)  # [M, T]
        if not self.modules:
            self._start(tuple(gates), stacked)
        if tuple(gates) != self.modules:
            raise ValueError(f"Expected gates of the {len(self.modules)} layers of the first update, got {list(gates)}")
        self.num_tokens += weights.sum(-1)
        self.gate_sums += weights @ stacked
        self.usage_sums += weights @ winners
        self.entropy_sums += entropies @ weights.t()

    def _start(self, modules: tuple[str, ...], stacked: Tensor) -> None:
        self.modules = modules
        shape = (len(modules), self.num_groups, stacked.shape[-1])
        self.num_tokens = torch.zeros(self.num_groups, dtype=torch.float64, device=stacked.device)
        self.gate_sums = torch.zeros(shape, dtype=torch.float64, device=stacked.device)
        self.usage_sums = torch.zeros_like(self.gate_sums)
        self.entropy_sums = torch.zeros_like(self.gate_sums[..., 0])

    def _weights(self, mask: Tensor | None, groups: Tensor | None, stacked: Tensor) -> Tensor:
        """[G, T]: 1 where a token belongs to a group and is no padding."""
        num_tokens = stacked.shape[1]
        kept = stacked.new_ones(num_tokens) if mask is None else mask.to(stacked).reshape(-1)
        if len(kept) != num_tokens:
            raise ValueError(f"Expected a mask for the {num_tokens} tokens that have gates, got one for {len(kept)}")
        if groups is None:
            return kept[None]
        of_token = groups.to(stacked.device).reshape(-1)
        of_token = of_token.repeat_interleave(num_tokens // len(of_token))  # one for a whole sequence, or for a token
        return nn.functional.one_hot(of_token, self.num_groups).t().to(stacked) * kept

    def mean(self) -> Tensor:
        """Mean gates [M, G, N]; NaN for a group without tokens."""
        return self.gate_sums / self.num_tokens[:, None]

    def usage(self) -> Tensor:
        """Share of tokens for which an expert has the largest gate, [M, G, N]."""
        return self.usage_sums / self.num_tokens[:, None]

    def entropy(self) -> Tensor:
        """Mean entropy of a token's gates over log N, [M, G]: 0 is one expert alone, 1 all alike."""
        return self.entropy_sums / self.num_tokens / math.log(self.gate_sums.shape[-1])


def _stack(gates: Mapping[str, Tensor]) -> Tensor:
    """[M, batch * length, N], on the device of the first layer."""
    first = next(iter(gates.values()))
    return torch.stack([layer.detach().to(first).flatten(0, -2) for layer in gates.values()])


@torch.no_grad()
def document_statistics(
    model: nn.Module, batch: Mapping[str, Any], adapter_name: str = "default", mask_key: str = "attention_mask"
) -> tuple[GateStatistics, dict[str, Tensor]]:
    """Run a model over a batch without dropout, and sum its gates within each sequence.

    Args:
        batch: what the model's forward takes; `labels` and entries that are no tensors are left out.
        mask_key: entry that is 0 for padding; without it every token counts.

    Returns:
        Statistics with a group for each sequence, and the gates [batch, length, N] by layer name.
    """
    device = next(model.parameters()).device
    inputs = {key: value.to(device) for key, value in batch.items() if isinstance(value, Tensor) and key != "labels"}
    was_training = model.training
    model.eval()
    with record_gates(model, adapter_name) as gates:
        model(**inputs, use_cache=False)
    model.train(was_training)
    num_sequences = len(next(iter(inputs.values())))
    statistics = GateStatistics(num_sequences)
    statistics.update(gates, inputs.get(mask_key), torch.arange(num_sequences, device=device))
    return statistics, gates
