"""Gates given from outside for each sequence or token (router_input="given"), for example by a corpus model."""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hydralora.adapter.batch_axis import Call, Place, locate, place_of, read_call


class ModelCalls:
    """The running calls of one model. Its layers and the hooks that record the calls share this object.

    Attributes:
        running: The calls from the whole model (first) to the innermost transformers model (last).
        copies: Number of copies that generation makes of each sequence (beams, several returned sequences).
        dealt: Cache of gates in token order while the innermost call runs. The key holds all that the gates depend on.
        owner: The thread whose gates the layers have, and the context that gave them; empty outside of `expert_gates`.
    """

    def __init__(self) -> None:
        self.running: list[Call] = []
        self.copies = 1
        self.dealt: dict[Any, Tensor] = {}
        self.owner: dict[str, tuple[int, object]] = {}

    def take(self, context: object) -> None:
        """Note that this thread gives the gates, until `release`.

        Raises:
            RuntimeError: If another thread does: its gates would be used for this thread's rows.
        """
        self.owner.setdefault("thread", (threading.get_ident(), context))  # in one step, so that threads cannot meet
        self.check_thread()

    def check_thread(self) -> None:
        """Raise RuntimeError if the layers have the gates of another thread."""
        mine = threading.get_ident()
        if self.owner.get("thread", (mine, None))[0] != mine:
            raise RuntimeError(
                "Another thread is calling this model with its own expert_gates, which belong to the model while the "
                "call lasts. Put a lock around the calls, batch the requests, or give each thread a copy of the model."
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModelCalls":
        return ModelCalls()  # the copy is not being called

    def release(self, context: object) -> None:
        """Forget the thread, if this context was the first to take."""
        if self.owner.get("thread", (0, None))[1] is context:
            self.owner.clear()


class NoteCall:
    """Forward pre-hook that reads the batch from a model's inputs."""

    def __init__(self, calls: ModelCalls, model: nn.Module, is_root: bool) -> None:
        self.calls, self.is_root = calls, is_root
        self.names = tuple(inspect.signature(type(model).forward).parameters)[1:]

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called by torch for each call of the module."""
        running = self.calls.running
        if self.is_root:
            if not torch.compiler.is_compiling() and self.calls.owner:
                self.calls.check_thread()
            running.clear()  # an exception may have left calls behind
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        self.calls.dealt.clear()
        running.append(read_call(module, given, running[-1] if running else None))


class ForgetCall:
    """Forward hook that ends the call."""

    def __init__(self, calls: ModelCalls) -> None:
        self.calls = calls

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Called by torch for each call of the module."""
        self.calls.dealt.clear()
        if self.calls.running:
            self.calls.running.pop()


@contextmanager
def expert_gates(model: nn.Module, gates: Tensor) -> Iterator[None]:
    """Give all layers of a model the gates of each sequence, or of each token, while the context lasts.

        with hydralora.expert_gates(model, gates):
            model.generate(**batch)

    A single forward pass can also take them as an argument: `model(**batch, expert_gates=gates)`.

    Each row of the batch needs its own gates. Losses that concatenate pairs (DPO) call the model with twice as many
    rows. Inside `generate`, all copies of a sequence (beams) share its gates.

    With gradient checkpointing, backward runs layers again after the context has ended. They then use the gates of the
    context that ended last. So call backward before the next forward pass, as PEFT requires for aLoRA too.

    Args:
        model: A model with HydraLoRA adapters. Adapters with their own router ignore these gates.
        gates: Float [batch, N], or [batch, length, N] for gates of each token, which a row with several documents
            needs. They are not normalised. Or integers [batch] or [batch, length]: the index of the single expert that
            is on, -1 for none.

    Raises:
        RuntimeError: If another thread is calling the model with its own gates.
        ValueError: If an index names an expert that an adapter does not have. Indices on a GPU are not checked, because
            reading them would block until the GPU is idle; a wrong index makes the outputs NaN.
    """
    modules = _modules_in(model)
    layers = [module for module in modules if "given_gates" in module.__dict__]
    if not gates.is_floating_point():
        _check_index(gates, layers)
    calls = {id(layer.calls): layer.calls for layer in layers}
    is_compiling = torch.compiler.is_compiling()
    context = None if is_compiling else object()
    if not is_compiling:
        for each in calls.values():
            each.take(context)
    for each in calls.values():
        each.dealt.clear()
    before = [layer.given_gates for layer in layers]
    for layer in layers:
        layer.__dict__["given_gates"] = gates  # nn.Module's `__setattr__` is slow, and each training step comes here
    with ExitStack() as stack:
        if not is_compiling:
            generating = [m for m in modules if isinstance(m, PreTrainedModel) and hasattr(m, "generate")]
            for each in calls.values():
                stack.enter_context(_counted_copies(generating, each))
        try:
            yield
        finally:
            kept = gates if torch.is_grad_enabled() else None
            for layer, previous in zip(layers, before, strict=True):
                layer.__dict__.update(given_gates=previous, recompute_gates=kept)
            for each in calls.values():
                each.running.clear()
                each.dealt.clear()
                if not is_compiling:
                    each.release(context)


def _modules_in(model: nn.Module) -> list[Any]:
    """`model.modules()` in another order, in a quarter of the time: a step of a 7B model walks over 2,500 modules."""
    found: dict[int, nn.Module] = {}
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            waiting.extend(module._modules.values())
    return list(found.values())


@contextmanager
def _counted_copies(generating: list[Any], calls: ModelCalls) -> Iterator[None]:
    """While the context lasts, `generate` of each of these models records how many copies it makes of a sequence."""
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
    """Number of copies that generation makes of each input: the larger of beams and returned sequences."""
    sources = (kwargs.get("generation_config"), model.generation_config)
    counts = []
    for name in ("num_beams", "num_return_sequences"):
        values = [kwargs.get(name), *(getattr(source, name, None) for source in sources if source is not None)]
        counts.append(next((value for value in values if value is not None), 1))
    return max(counts)


def watch_calls(model: nn.Module, calls: ModelCalls) -> list[Any]:
    """Record the calls of a model and of the transformers models inside it; returns the handles of the hooks."""
    handles = []
    for module in model.modules():
        if module is model or isinstance(module, PreTrainedModel):
            note = NoteCall(calls, module, is_root=module is model)
            handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
            handles.append(module.register_forward_hook(ForgetCall(calls)))
    return handles


def watch_for_good(model: nn.Module) -> None:
    """Connect all layers of a model with its calls. Adapters that are added later use the same connection."""
    layers = {name: module for name, module in model.named_modules() if hasattr(module, "given_gates")}
    hooks = [hook for hook in model._forward_pre_hooks.values() if isinstance(hook, NoteCall)]
    calls = hooks[0].calls if hooks else ModelCalls()
    if not hooks:
        watch_calls(model, calls)
    for name, layer in layers.items():
        layer.calls, layer.place = calls, place_of(model, name)


@contextmanager
def watched(model: nn.Module) -> Iterator[ModelCalls]:
    """Record a model's calls while the context lasts, also for a model that is not watched permanently."""
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
    """Remove the hooks of `watch_for_good`."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, NoteCall | ForgetCall)]:
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)


def token_gates(gates: Tensor, shape: tuple[int, ...], call: Call, place: Place, copies: int) -> Tensor:
    """Order the gates as the input's T tokens use them: [G, N], each row for the next T / G tokens.

    Args:
        gates: Gates as they were given, [batch, N] or [batch, length, N].
        shape: Shape of the input without its last axis.
        copies: Number of copies that generation made of each sequence.

    Raises:
        ValueError: If the gates do not fit the call, or it is unclear which row each token of the input belongs to.
    """
    if copies > 1 and call.batch == len(gates) * copies:
        gates = gates.repeat_interleave(copies, dim=0)
    if len(gates) != call.batch:
        raise ValueError(
            f"Expected expert_gates for each of the {call.batch} rows that the model is called with, got "
            f"{tuple(gates.shape)}. Each row of a pair (DPO) and each copy of a sequence needs its own gates."
        )
    if gates.dim() == 3:
        return _of_tokens(gates, shape, call, place)
    if call.batch == 1:
        return gates  # every token belongs to the only row
    layout = locate(shape, call, place)
    if layout.kind == "length first":
        return gates.repeat(shape[0], 1)
    if layout.kind == "patches" and call.patches is not None:
        return gates[call.patches.rows[:: layout.length].to(gates.device)]
    return gates


def _of_tokens(gates: Tensor, shape: tuple[int, ...], call: Call, place: Place) -> Tensor:
    if len(shape) == 3 and shape[1] == 1:  # [batch, 1, length], as in DeepSeek-V3
        shape = (shape[0], shape[2])
    layout = locate(shape, call, place)
    length = {"batch first": shape[-1], "length first": shape[0], "flat": layout.length}.get(layout.kind)
    if length != gates.shape[1] or len(shape) > 2:
        raise ValueError(
            f"Expected expert_gates [batch, length, N] for an input of shape {tuple(shape)}, got "
            f"{tuple(gates.shape)}. Exclude layers that see other tokens (`exclude_modules`), or give gates of each "
            f"sequence."
        )
    return (gates.transpose(0, 1) if layout.kind == "length first" else gates).flatten(0, 1)


def _check_index(index: Tensor, layers: list[Any]) -> None:
    """Raise ValueError if an index names an expert that one of the adapters does not have."""
    kinds = [(layer, name) for layer in layers for name, kind in layer.router_input.items() if kind == "given"]
    if not kinds or index.device.type != "cpu" or index.numel() == 0 or torch.compiler.is_compiling():
        return
    experts = min(layer.num_experts[name] for layer, name in kinds)
    if int(index.min()) < -1 or int(index.max()) >= experts:
        raise ValueError(
            f"Expected integer expert_gates from 0 to {experts - 1}, or -1 for no expert, got {int(index.min())} to "
            f"{int(index.max())}"
        )
