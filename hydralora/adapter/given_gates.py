"""Gates given from outside, for each sequence or token (router_input="given"), for instance of a corpus model."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hydralora.adapter.batch_axis import Call, Place, locate, place_of, read_call


class ModelCalls:
    """Calls of one model that are running now, shared by its layers and the hooks that note them.

    Attributes:
        running: the call of the whole model first, of the innermost transformers model last.
        copies: copies of each sequence that generation makes (beams, several returned sequences).
        dealt: gates as tokens take them, by what decides it, while the innermost call runs.
    """

    def __init__(self) -> None:
        self.running: list[Call] = []
        self.copies = 1
        self.dealt: dict[Any, Tensor] = {}


class NoteCall:
    """Forward pre-hook: reads the batch from a model's inputs."""

    def __init__(self, calls: ModelCalls, model: nn.Module, is_root: bool) -> None:
        self.calls, self.is_root = calls, is_root
        self.names = tuple(inspect.signature(type(model).forward).parameters)[1:]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called by torch for each call of the module."""
        running = self.calls.running
        if self.is_root:
            running.clear()  # an exception may have left something
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        self.calls.dealt.clear()
        running.append(read_call(module, given, running[-1] if running else None))


class ForgetCall:
    """Forward hook: the call is over."""

    def __init__(self, calls: ModelCalls) -> None:
        self.calls = calls

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Called by torch for each call of the module."""
        self.calls.dealt.clear()
        if self.calls.running:
            self.calls.running.pop()


@contextmanager
def expert_gates(model: nn.Module, gates: Tensor) -> Iterator[None]:
    """Give the gates of each sequence, or of each token, to all layers of a model while the context lasts.

        with hydralora.expert_gates(model, gates):
            model.generate(**batch)

    A forward pass alone can take them as an argument: `model(**batch, expert_gates=gates)`.

    Every row that the model is called with needs gates of its own: losses that concatenate pairs (DPO) call it with
    twice as many rows. Within `generate` the copies that beams make of a sequence share its gates.

    Under gradient checkpointing, backward runs layers again after the context has ended; they then use the gates of the
    last context that ended. So call backward before the next forward pass, as PEFT asks for aLoRA too.

    Args:
        model: with HydraLoRA adapters; those with a router of their own ignore these gates.
        gates: [batch, N], used as they are: not normalised. [batch, length, N] for gates of each token, as a row needs
            that holds several documents. Or integers [batch] or [batch, length]: the number of the one expert that is
            on, -1 for none.

    Raises:
        ValueError: an expert that an adapter does not have. (Numbers on a GPU are not looked at, since that would make
            it wait: a wrong one makes the outputs NaN.)
    """
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "given_gates")]
    if not gates.is_floating_point():
        _check_index(gates, layers)
    before = [layer.given_gates for layer in layers]
    for layer in layers:
        layer.given_gates = gates
    calls = {id(layer.calls): layer.calls for layer in layers}
    with ExitStack() as stack:
        if not torch.compiler.is_compiling():
            for each in calls.values():
                stack.enter_context(_counted_copies(model, each))
        try:
            yield
        finally:
            kept = gates if torch.is_grad_enabled() else None
            for layer, previous in zip(layers, before, strict=True):
                layer.given_gates, layer.recompute_gates = previous, kept
            for each in calls.values():
                each.running.clear()
                each.dealt.clear()


@contextmanager
def _counted_copies(model: nn.Module, calls: ModelCalls) -> Iterator[None]:
    """`generate` of the models inside notes how many copies it makes of each sequence."""
    generating = [m for m in model.modules() if isinstance(m, PreTrainedModel) and hasattr(m, "generate")]
    patched = [m for m in generating if "generate" not in m.__dict__]
    for each in patched:
        each.__dict__["generate"] = _noting_copies(each, calls)
    try:
        yield
    finally:
        for each in patched:
            del each.__dict__["generate"]


def _noting_copies(model: Any, calls: ModelCalls) -> Callable[..., Any]:
    generate = model.generate

    def noting(*args: Any, **kwargs: Any) -> Any:
        before = calls.copies
        calls.copies = _copies(model, kwargs)
        try:
            return generate(*args, **kwargs)
        finally:
            calls.copies = before

    return noting


def _copies(model: Any, kwargs: dict[str, Any]) -> int:
    """As generation expands its inputs: by the larger of beams and returned sequences."""
    sources = (kwargs.get("generation_config"), model.generation_config)
    counts = []
    for name in ("num_beams", "num_return_sequences"):
        values = [kwargs.get(name), *(getattr(source, name, None) for source in sources if source is not None)]
        counts.append(next((value for value in values if value is not None), 1))
    return max(counts)


def watch_calls(model: nn.Module, calls: ModelCalls) -> list[Any]:
    """Note the calls of a model and of the transformers models inside of it; returns handles that end it."""
    handles = []
    for module in model.modules():
        if module is model or isinstance(module, PreTrainedModel):
            note = NoteCall(calls, module, is_root=module is model)
            handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
            handles.append(module.register_forward_hook(ForgetCall(calls)))
    return handles


def watch_for_good(model: nn.Module) -> None:
    """Connect all layers of a model with its calls, once; further adapters find them connected."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "given_gates")}
    hooks = [hook for hook in model._forward_pre_hooks.values() if isinstance(hook, NoteCall)]
    calls = hooks[0].calls if hooks else ModelCalls()
    if not hooks:
        watch_calls(model, calls)
    for name, layer in layers.items():
        layer.calls, layer.place = calls, place_of(model, name)


@contextmanager
def watched(model: nn.Module) -> Iterator[ModelCalls]:
    """Calls of a model while the context lasts, for layers that do not need them otherwise."""
    for hook in model._forward_pre_hooks.values():
        if isinstance(hook, NoteCall):
            yield hook.calls
            return
    calls = ModelCalls()
    handles = watch_calls(model, calls)
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def stop_watching(model: nn.Module) -> None:
    """Remove what `watch_for_good` put in place."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, NoteCall | ForgetCall)]:
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)


def token_gates(gates: Tensor, shape: tuple[int, ...], call: Call, place: Place, copies: int) -> Tensor:
    """Gates [G, N] for an input whose tokens, in order, take them one after the other: T / G tokens each.

    Args:
        gates: [batch, N] or [batch, length, N], as they were given.
        shape: of the input, without its last axis.
        copies: of each sequence, that generation made.

    Raises:
        ValueError: gates that do not fit the call, or an input whose rows cannot be told.
    """
    if copies > 1 and call.batch == len(gates) * copies:
        gates = gates.repeat_interleave(copies, dim=0)
    if len(gates) != call.batch:
        raise ValueError(
            f"Expected expert_gates for each of the {call.batch} rows that the model is called with, got "
            f"{tuple(gates.shape)}. Rows of a pair (DPO) or copies of a sequence need gates of their own."
        )
    if gates.dim() == 3:
        return _of_tokens(gates, shape, call, place)
    if call.batch == 1:
        return gates  # every token is of the one row
    layout = locate(shape, call, place)
    if layout.kind == "length first":
        return gates.repeat(shape[0], 1)
    if layout.kind == "patches" and call.patches is not None:
        return gates[call.patches.rows[:: layout.length].to(gates.device)]
    return gates


def _of_tokens(gates: Tensor, shape: tuple[int, ...], call: Call, place: Place) -> Tensor:
    layout = locate(shape, call, place)
    length = {"batch first": shape[-1], "length first": shape[0], "flat": layout.length}.get(layout.kind)
    if length != gates.shape[1] or len(shape) > 2:
        raise ValueError(
            f"Expected expert_gates [batch, length, N] for an input of shape {tuple(shape)}, got {tuple(gates.shape)}"
        )
    return (gates.transpose(0, 1) if layout.kind == "length first" else gates).flatten(0, 1)


def _check_index(index: Tensor, layers: list[Any]) -> None:
    """Numbers of experts that some adapter does not have."""
    kinds = [(layer, name) for layer in layers for name, kind in layer.router_input.items() if kind == "given"]
    if not kinds or index.device.type != "cpu" or index.numel() == 0 or torch.compiler.is_compiling():
        return
    experts = min(layer.num_experts[name] for layer, name in kinds)
    if int(index.min()) < -1 or int(index.max()) >= experts:
        raise ValueError(
            f"Expected integer expert_gates from 0 to {experts - 1}, or -1 for no expert, got {int(index.min())} to "
            f"{int(index.max())}"
        )
