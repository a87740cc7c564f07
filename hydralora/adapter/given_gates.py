"""Gates given from outside for each sequence or token (router_input="given"), for example by a corpus model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hydralora.adapter.batch_axis import Call, Place, locate
from hydralora.adapter.calls import ModelCalls


@contextmanager
def expert_gates(model: nn.Module, gates: Tensor) -> Iterator[None]:
    """Give all layers of a model the gates of each sequence, or of each token, while the context lasts.

        with hydralora.expert_gates(model, gates):
            model.generate(**batch)

    A single forward pass can also take them as an argument: `model(**batch, expert_gates=gates)`.

    Each row of the batch needs its own gates. Losses that concatenate pairs (DPO) call the model with twice as many
    rows. Inside `generate`, all copies of a sequence (beams) share its gates.

    Gradient checkpointing runs layers again during backward, after the context has ended. Transformers' checkpointing
    gives them the gates of their own forward pass. Your own checkpointing gives them those of the context that ended
    last, so call backward before the next forward pass.

    Args:
        model: A model with HydraLoRA adapters. Adapters with their own router ignore these gates.
        gates: Float [batch, N], or [batch, length, N] for gates of each token, which a row with several documents
            needs. They are not normalised. Or integers [batch] or [batch, length]: the index of the single expert that
            is on, -1 for none.

    Raises:
        RuntimeError: If another thread is calling the model with its own gates.
        ValueError: If the gates are no tensor, complex, booleans or unsigned, or an index names an expert that an
            active adapter does not have. Indices on a GPU are not checked, because reading them would block until the
            GPU is idle; a wrong index makes the outputs NaN.
    """
    kind = gates.dtype if isinstance(gates, Tensor) else None
    if kind is None or kind.is_complex or not kind.is_signed:  # unsigned numbers cannot be compared with -1
        raise ValueError(
            f"Expected expert_gates as a tensor of floating point numbers or signed integers, got "
            f"{kind or type(gates).__name__}"
        )
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
        layer.__dict__["given_gates"] = gates  # nn.Module's `__setattr__` is slow, and each training step runs this
    with ExitStack() as stack:
        if not is_compiling:
            generating = [m for m in modules if isinstance(m, PreTrainedModel) and hasattr(m, "generate")]
            for each in calls.values():
                stack.enter_context(_counted_copies(generating, each))
            stack.enter_context(_kept_for_backward(modules, layers, gates))
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
def _kept_for_backward(modules: list[Any], layers: list[Any], gates: Tensor) -> Iterator[None]:
    """While the context lasts, transformers' gradient checkpointing runs layers again with the same gates and calls."""
    checkpointed = [m for m in modules if "_gradient_checkpointing_func" in m.__dict__]
    before = [m._gradient_checkpointing_func for m in checkpointed]
    for module, checkpoint in zip(checkpointed, before, strict=True):
        module._gradient_checkpointing_func = _Checkpoint(checkpoint, layers, gates)
    try:
        yield
    finally:
        for module, checkpoint in zip(checkpointed, before, strict=True):
            module._gradient_checkpointing_func = checkpoint


class _Checkpoint:
    """A checkpointing function that uses the gates and the call of the first run for the second run, too."""

    def __init__(self, checkpoint: Callable[..., Any], layers: Sequence[Any], gates: Tensor) -> None:
        self.checkpoint, self.layers, self.gates = checkpoint, layers, gates

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        return self.checkpoint  # a copied model has no gates

    def __call__(self, run: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():  # the compiler keeps what backward needs
            return self.checkpoint(run, *args, **options)
        calls = {id(layer.calls): layer.calls for layer in self.layers}.values()
        running = [list(each.running) for each in calls]

        def with_gates(*inputs: Any) -> Any:
            if torch._C._current_graph_task_id() == -1:  # outside backward, so this is the first run
                return run(*inputs)
            before = [layer.given_gates for layer in self.layers], [list(each.running) for each in calls]
            self._set([self.gates] * len(self.layers), running, calls)
            try:
                return run(*inputs)
            finally:
                self._set(*before, calls)

        return self.checkpoint(with_gates, *args, **options)

    def _set(self, gates: list[Tensor], running: list[list[Call]], calls: Iterable[ModelCalls]) -> None:
        for layer, given in zip(self.layers, gates, strict=True):
            layer.__dict__["given_gates"] = given
        for each, of_model in zip(calls, running, strict=True):
            each.running[:] = of_model
            each.dealt.clear()


@contextmanager
def _counted_copies(generating: list[Any], calls: ModelCalls) -> Iterator[None]:
    """While the context lasts, `generate` of each of these models records how many copies it makes of a sequence."""
    patched = [m for m in generating if "generate" not in m.__dict__]
    for each in patched:
        each.__dict__["generate"] = _NotingCopies(each, calls)
    try:
        yield
    finally:
        for each in patched:
            del each.__dict__["generate"]


class _NotingCopies:
    """A model's `generate` that records how many copies it makes of each sequence. (A closure would run the
    original model when a copy of it is called.)"""

    def __init__(self, model: Any, calls: ModelCalls) -> None:
        self.model, self.calls = model, calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        before = self.calls.copies
        self.calls.copies = _copies(self.model, *args, **kwargs)
        try:
            return type(self.model).generate(self.model, *args, **kwargs)
        finally:
            self.calls.copies = before


def _copies(model: Any, inputs: Any = None, generation_config: Any = None, *_: Any, **kwargs: Any) -> int:
    """Number of copies that generation makes of each input: the larger of beams and returned sequences."""
    sources = (generation_config, model.generation_config)
    counts = []
    for name in ("num_beams", "num_return_sequences"):
        values = [kwargs.get(name), *(getattr(source, name, None) for source in sources if source is not None)]
        counts.append(next((value for value in values if value is not None), 1))
    return max(counts)


def token_gates(gates: Tensor, experts: int, shape: tuple[int, ...], call: Call, place: Place, copies: int) -> Tensor:
    """Order the gates as the input's T tokens use them: [G, N], or indices [G]; each row for the next T / G tokens.

    Args:
        gates: Gates as they were given, [batch, N] or [batch, length, N], or indices [batch] or [batch, length].
        experts: Number of experts N.
        shape: Shape of the input without its last axis.
        copies: Number of copies that generation made of each sequence.

    Raises:
        ValueError: If the gates do not fit the call, or it is unclear which row each token of the input belongs to.
    """
    is_index = not gates.is_floating_point()
    if is_index and gates.dim() == 2 and gates.shape[1] == experts == shape[-1]:
        raise ValueError(
            f"Expected expert_gates with one meaning, got integers {tuple(gates.shape)}, which may be gates "
            f"of {experts} experts or experts of {experts} tokens. Pass gates as floating point numbers."
        )
    by_place = gates.unsqueeze(-1) if is_index else gates  # [batch, N] or [batch, length, N]; N = 1 for indices
    if by_place.dim() not in (2, 3) or not (is_index or gates.shape[-1] == experts):
        raise ValueError(
            f"Expected expert_gates [batch, {experts}] for an input of shape {shape}, "
            f"got {tuple(gates.shape)}. Also accepted: [batch, length, {experts}] for gates of each token, and "
            f"integers [batch] or [batch, length], the index of the one expert that is on."
        )
    in_order = _in_order(by_place, shape, call, place, copies)
    return in_order[:, 0].contiguous() if is_index else in_order


def _in_order(gates: Tensor, shape: tuple[int, ...], call: Call, place: Place, copies: int) -> Tensor:
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
    kinds = [(layer, name) for layer, name in kinds if name in layer.active_adapters] or kinds
    if not kinds or index.device.type != "cpu" or index.numel() == 0 or torch.compiler.is_compiling():
        return
    experts = min(layer.num_experts[name] for layer, name in kinds)
    if int(index.min()) < -1 or int(index.max()) >= experts:
        raise ValueError(
            f"Expected integer expert_gates from 0 to {experts - 1}, or -1 for no expert, got {int(index.min())} to "
            f"{int(index.max())}"
        )
