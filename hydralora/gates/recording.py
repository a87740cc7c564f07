"""Records the gates of each layer and token.

with record_gates(model) as gates:
    loss = model(**batch).loss
loss = loss + 0.01 * balance_loss(gates, batch["attention_mask"])
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hydralora.adapter.batch_axis import Call, Place, locate, place_of
from hydralora.adapter.calls import ModelCalls, watched
from hydralora.adapter.layer import GateObserver, HydraLoraLayer
from hydralora.adapter.state import adapter_state, base_of, device_of, hydralora_layers, in_eval_mode, plain_name
from hydralora.gates.labels import IGNORED, has_decoder, makes_decoder_inputs
from hydralora.gates.statistics import GateStatistics, Masks


@contextmanager
def record_gates(model: nn.Module, adapter_name: str = "default") -> Iterator[dict[str, Tensor]]:
    """Collect the gates of each layer's last forward pass while the context lasts.

    These are the gates that were used (dropout included), with gradients if the forward pass has them. Layers do not
    use their fused path meanwhile, which costs little (benchmarks/method/gate_statistics.py). With gradient
    checkpointing the context must last until after `backward`, which runs layers again and needs the same path.

    Args:
        model: A model whose adapter is active.

    Yields:
        A dict that forward passes fill: layer name -> gates [batch, length, N], in the order of the model's forward
        pass. It keeps its content after the context. If a layer runs several times in one forward pass (ALBERT), the
        entry is the mean of its runs. Length is 1 for a layer that sees one vector for each sequence (a pooler). Layers
        without a batch axis (experts of a mixture, a vision tower) have [tokens, N].

    Raises:
        ValueError: If there is no such adapter, it is merged or disabled, or it has a single expert and so no gates.
    """
    layers = hydralora_layers(model, adapter_name)
    state = adapter_state(model, adapter_name)
    state.refuse_merged("record gates", any_adapter=True)
    state.refuse_disabled("record gates")
    if any(layer.num_experts[adapter_name] == 1 for layer in layers.values()):
        raise ValueError(
            f"Expected an adapter with gates, got {adapter_name!r} with a single expert, which is plain LoRA"
        )
    base = base_of(model)
    gates: dict[str, Tensor] = {}
    runs: dict[str, int] = {}
    places = {plain_name(name): place_of(base, name) for name, _ in base.named_modules() if plain_name(name) in layers}
    before = [layer.gate_observer for layer in layers.values()]
    with watched(base) as calls:
        new_pass = base.register_forward_pre_hook(lambda *_: _start_pass(runs))
        for (name, layer), outer in zip(layers.items(), before, strict=True):
            router = dict(layer.hydralora_router.items()).get(adapter_name)
            needs_gradient = router is not None and router.weight.requires_grad
            layer.gate_observer = _observer(adapter_name, name, gates, runs, calls, places[name], needs_gradient, outer)
        try:
            yield gates
        finally:
            new_pass.remove()
            for layer, observer in zip(layers.values(), before, strict=True):
                layer.gate_observer = observer


_GRADIENTS = "gradients are on"


def _start_pass(runs: dict[str, int]) -> None:
    runs.clear()
    runs[_GRADIENTS] = int(torch.is_grad_enabled())


def _observer(
    adapter_name: str,
    name: str,
    gates: dict[str, Tensor],
    runs: dict[str, int],
    calls: ModelCalls,
    place: Place,
    needs_gradient: bool,
    outer: GateObserver | None,
) -> GateObserver:
    """Records the gates of the layer `name`; `runs` counts the runs of each layer in this forward pass.

    The gates of other adapters go to the observer that was there before (`outer`).
    """

    def observe(adapter: str, layer_gates: Tensor) -> None:
        if adapter != adapter_name:
            if outer is not None:
                outer(adapter, layer_gates)
            return
        if torch._C._current_graph_task_id() != -1 and name in gates:
            return  # gradient checkpointing runs the layer again during backward
        if runs.get(_GRADIENTS) and not torch.is_grad_enabled() and needs_gradient:
            raise ValueError(
                f"Cannot record gates of {name}: the model runs it without gradients within a pass that has them, as "
                f"reentrant gradient checkpointing does, so a loss on these gates would change no router. Enable it "
                f"with gradient_checkpointing_kwargs={{'use_reentrant': False}}, or record under torch.no_grad()."
            )
        call = calls.running[-1] if calls.running else None
        layer_gates = layer_gates if call is None else _by_rows(layer_gates, call, place)
        before = runs.get(name, 0) if call is not None else 0
        same = before and gates[name].shape == layer_gates.shape
        gates[name] = torch.lerp(gates[name], layer_gates, 1 / (before + 1)) if same else layer_gates
        runs[name] = before + 1

    return observe


def _by_rows(gates: Tensor, call: Call, place: Place) -> Tensor:
    """Gates [batch, length, N] if the rows of the batch are known, else unchanged."""
    if gates.dim() == 4 and gates.shape[1] == 1:  # [batch, 1, length, N], as in DeepSeek-V3
        gates = gates.squeeze(1)
    if gates.dim() > 3:
        return gates
    try:
        layout = locate(tuple(gates.shape[:-1]), call, place)
    except ValueError:
        return gates
    if layout.kind == "length first":
        return gates.transpose(0, 1)
    if layout.kind == "flat":
        return gates.view(call.batch, layout.length, -1)
    return gates.unsqueeze(1) if layout.kind == "pooled" else gates


@torch.no_grad()
def document_statistics(
    model: nn.Module, batch: Mapping[str, Any], adapter_name: str = "default"
) -> tuple[GateStatistics, dict[str, Tensor]]:
    """Run a model on a batch without dropout, and sum its gates for each sequence.

    Args:
        batch: Inputs of the model's forward pass. Entries that are not tensors are dropped, and so are `labels` unless
            a decoder needs them. `attention_mask` is 0 for padding; without it every token counts. In an
            encoder-decoder model, layers of the decoder use `decoder_attention_mask`; without it they skip tokens
            without a label (-100).

    Returns:
        Statistics with a group for each sequence, and the gates [batch, length, N] by layer name.

    Raises:
        ValueError: If no forward pass runs the adapter, or it is unclear which sequence the tokens of a layer belong
            to.
    """
    adapter_state(model, adapter_name).refuse_idle("measure gates")
    base = base_of(model)
    device = device_of(base)
    inputs = {key: value.to(device).contiguous() for key, value in batch.items() if isinstance(value, Tensor)}
    labels = inputs.pop("labels", None)
    if labels is not None and makes_decoder_inputs(base, inputs):
        inputs["labels"] = labels
    masks: Masks = inputs.get("attention_mask")
    recording, telling = record_gates(model, adapter_name), _layers_of_the_encoder(base)
    with in_eval_mode(model), recording as gates, telling as of_encoder:
        model(**inputs, **({"use_cache": False} if hasattr(base, "config") else {}))
    if not gates:
        raise ValueError(f"No layer with adapter {adapter_name!r} ran in the forward pass")
    if has_decoder(base):
        decoder_mask = inputs.get("decoder_attention_mask")
        if decoder_mask is None and labels is not None:
            decoder_mask = labels != IGNORED
        masks = {name: masks if name in of_encoder else decoder_mask for name in gates}  # type: ignore[misc]
    num_sequences = len(next(iter(inputs.values())))
    statistics = GateStatistics(num_sequences)
    statistics.update(gates, masks, torch.arange(num_sequences, device=device))
    return statistics, gates


@contextmanager
def _layers_of_the_encoder(base: Any) -> Iterator[set[str]]:
    """Names of layers that see the encoder's tokens: its own, and the decoder's layers that read its output."""
    names: set[str] = set()
    handles: list[Any] = []
    if has_decoder(base):
        encoder = base.get_encoder()
        inside = {id(module) for module in encoder.modules()}
        outputs: list[Tensor] = []
        handles.append(encoder.register_forward_hook(lambda _module, _args, output: outputs.append(output[0])))

        def note(name: str, module: nn.Module, x: Tensor) -> None:
            if id(module) in inside or any(x.data_ptr() == y.data_ptr() and x.shape == y.shape for y in outputs):
                names.add(name)

        for name, module in base.named_modules():
            if isinstance(module, HydraLoraLayer):
                hook = partial(note, plain_name(name))
                handles.append(module.register_forward_pre_hook(lambda m, args, hook=hook: hook(m, args[0])))
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()
