"""The running calls of a model. They tell its layers how the batch is laid out."""

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hydralora.adapter.batch_axis import Call, place_of, read_call


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
        """Record that this thread gives the gates, until `release`.

        Raises:
            RuntimeError: If another thread already gives gates: they would be used for this thread's rows.
        """
        self.owner.setdefault("thread", (threading.get_ident(), context))  # atomic, so only one thread can take it
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
        """Forget the thread, if this context was the first to call `take`."""
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
