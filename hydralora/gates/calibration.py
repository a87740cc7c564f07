"""Measures fixed gates as means of routed gates, and what fixing them costs."""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hydralora.adapter.state import adapter_state, in_eval_mode
from hydralora.gates.fixed import GateSpec, fixed_gates, resolve_gates
from hydralora.gates.labels import labelled_predictions
from hydralora.gates.recording import document_statistics

if TYPE_CHECKING:
    from peft import PeftModel


def calibrate_gates(
    model: "PeftModel",
    batches: Iterable[Mapping[str, Any]],
    adapter_name: str = "default",
    max_batches: int | None = None,
) -> dict[str, Tensor]:
    """Mean routed gates of each layer over the tokens of some batches, without padding.

    Args:
        batches: Inputs of the model's forward pass; `labels` are not needed. `attention_mask` is 0 for padding; without
            it every token counts.
        max_batches: Largest number of batches to use; None uses all.

    Returns:
        Gates [N] by layer name, for `set_fixed_gates`, `to_lora` and `export_lora`.

    Raises:
        ValueError: If there is no batch, or no batch has a token.
    """
    return _calibrate(model, ((batch, None) for batch in batches), adapter_name, max_batches)["all"]


def calibrate_gates_by_group(
    model: "PeftModel",
    batches: Iterable[Mapping[str, Any]],
    adapter_name: str = "default",
    max_batches: int | None = None,
) -> dict[str, dict[str, Tensor]]:
    """`calibrate_gates` for each group of sequences separately.

    Args:
        batches: As in `calibrate_gates`, with the entry `group`: a label for each sequence (strings, or a tensor of
            integers). It is not passed to the model.

    Returns:
        Label as a string -> gates [N] by layer name.

    Raises:
        ValueError: If there is no batch, a group has no token, or `group` is not one label for each sequence.
    """
    labelled = (
        ({key: value for key, value in batch.items() if key != "group"}, _labels(batch["group"])) for batch in batches
    )
    return _calibrate(model, labelled, adapter_name, max_batches)


def _calibrate(
    model: "PeftModel",
    batches: Iterator[tuple[Mapping[str, Any], list[str] | None]],
    adapter_name: str,
    max_batches: int | None,
) -> dict[str, dict[str, Tensor]]:
    sums: dict[str, Tensor] = {}  # [M, N]
    num_tokens: dict[str, Tensor] = {}  # [M]
    modules: tuple[str, ...] = ()
    adapter_state(model, adapter_name).refuse_idle("measure gates")
    with fixed_gates(model, None, adapter_name):  # routed gates, even if gates are fixed now
        for batch, labels in islice(batches, max_batches):
            statistics, _ = document_statistics(model, batch, adapter_name)
            if modules and statistics.modules != modules:
                raise ValueError("Expected the same layers to run in every batch; some experts of a mixture did not")
            modules = statistics.modules
            labels = ["all"] * statistics.num_groups if labels is None else labels
            if len(labels) != statistics.num_groups:
                raise ValueError(
                    f"Expected a label in `group` for each of the {statistics.num_groups} sequences, got {len(labels)}"
                )
            for i, label in enumerate(labels):
                sums[label] = sums.get(label, 0) + statistics.gate_sums[:, i]
                num_tokens[label] = num_tokens.get(label, 0) + statistics.layer_tokens[:, i]
    empty = [label for label, counts in num_tokens.items() if not counts.all()]
    if not sums or empty:
        raise ValueError(
            f"Expected batches with tokens to measure gates on, got none{' for ' * bool(empty)}{empty or ''}"
        )
    idle = _gates_of_idle_layers(model, adapter_name, modules)
    return {
        label: dict(zip(modules, (total / num_tokens[label][:, None]).float().unbind(), strict=True)) | idle
        for label, total in sums.items()
    }


def _gates_of_idle_layers(model: "PeftModel", adapter_name: str, modules: Sequence[str]) -> dict[str, Tensor]:
    """Gates 1 / N of the layers that no batch ran. Some models have layers that they never call (Zamba 2)."""
    uniform = resolve_gates(model, "uniform", adapter_name)
    idle = sorted(set(uniform) - set(modules))
    if idle:
        warnings.warn(
            f"{len(idle)} adapted layers ran in no batch, such as {idle[0]}: their gates are 1 / N, not measured. "
            f"If the model never runs them, leave them out (`exclude_modules`).",
            stacklevel=4,
        )
    return {name: uniform[name] for name in idle}


def _labels(values: Tensor | Sequence[Any]) -> list[str]:
    if isinstance(values, str) or (isinstance(values, Tensor) and values.dim() != 1):
        got = repr(values) if isinstance(values, str) else f"a tensor {list(values.shape)}"
        raise ValueError(f"Expected a list of labels, or integers [batch], in `group`, got {got}")
    return [str(value) for value in (values.tolist() if isinstance(values, Tensor) else values)]


@dataclasses.dataclass(frozen=True)
class RoutingGap:
    """Routed ("live") gates compared with fixed gates on the same tokens; losses and divergence in nats per token."""

    live_loss: float
    fixed_loss: float
    mean_kl: float
    num_tokens: int

    @property
    def loss_difference(self) -> float:
        """Fixed loss minus live (routed) loss: positive if routing predicts better."""
        return self.fixed_loss - self.live_loss


@torch.inference_mode()
def compare_with_live(
    model: "PeftModel", gates: GateSpec | None, batches: Iterable[Mapping[str, Any]], adapter_name: str = "default"
) -> RoutingGap:
    """Loss with routed ("live") and with fixed gates, and the mean divergence KL(live || fixed) of the predictions.

    Args:
        model: A model whose adapter is active; it is evaluated without dropout. Labels are aligned with the logits as
            in the model's own loss: a causal model predicts the next token, while a masked model and the decoder of an
            encoder-decoder model predict the token itself.
        gates: Gates as in `to_lora`; None uses the gates that are already fixed.
        batches: Held-out text that was not used for calibration: the inputs of the model's forward pass, with `labels`
            (-100 for tokens without loss).

    Raises:
        ValueError: If no token has a label, the gates do not fit, no forward pass runs the adapter, or the model's loss
            is not the cross entropy of its logits.
    """
    adapter_state(model, adapter_name).refuse_idle("compare fixed gates with routed ones")
    vectors = resolve_gates(model, gates, adapter_name)
    live_sum = fixed_sum = kl_sum = 0.0
    num_tokens = 0
    with in_eval_mode(model):
        for batch in batches:
            with fixed_gates(model, None, adapter_name):
                live, kept = labelled_predictions(model, batch)
            with fixed_gates(model, vectors, adapter_name):
                fixed, _ = labelled_predictions(model, batch)
            live_sum += float(F.nll_loss(live, kept, reduction="sum"))
            fixed_sum += float(F.nll_loss(fixed, kept, reduction="sum"))
            kl_sum += float(F.kl_div(fixed, live, reduction="sum", log_target=True))
            num_tokens += len(kept)
    if num_tokens == 0:
        raise ValueError("Expected batches with labels to compare predictions on, got no token with a label")
    return RoutingGap(live_sum / num_tokens, fixed_sum / num_tokens, kl_sum / num_tokens, num_tokens)
