"""Replays micro-batches as CUDA graphs, where launching kernels from Python takes longer than running them.

A graph holds the kernels of one forward and backward pass for one size of a row. Optimiser, clipping and schedule stay
outside. Gradients are added to tensors that stay in place.
"""

import dataclasses
import gc
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hydralora.training.config import TrainingConfig, TrainingError

_WARM_UP = 3  # micro-batches in which kernels are compiled and loaded, before the first recording
_HOST_LIMITS_BELOW = 0.05  # share of the launch time: the GPU's lag behind the host if the host is the limit
_PAYS_BELOW = 0.95  # share of the time without a graph
_SAME_WITHIN = 0.05  # share of the gradients' norm: bfloat16 rounding gives less, gradients of another batch far more

Batch = Mapping[str, Any]
MicroBatch = Callable[[Batch, Tensor], Tensor]  # batch, answer tokens of the step -> detached loss; adds gradients
_log = logging.getLogger(__name__)


def graphs_refusal(model: Any, peft_config: Any, config: TrainingConfig, *, packed: bool, processes: int) -> str | None:
    """Why a run does not record graphs, or None if it tries to.

    Raises:
        TrainingError: If graphs are required and cannot be used.
    """
    if config.cuda_graphs is False:
        return "switched off"
    method = getattr(peft_config or getattr(model, "active_peft_config", None), "peft_type", None)
    refusal = None
    if model.device.type != "cuda":
        refusal = f"graphs need a CUDA device, and the model is on {model.device.type}"
    elif len(set(getattr(model, "hf_device_map", {"": 0}).values())) > 1:
        refusal = "the model lies on several devices"
    elif not packed:
        refusal = "graphs need rows of few sizes, and the run does not pack"
    elif processes > 1:
        refusal = "the gradients of several processes are joined during the backward pass"
    elif method == "ADALORA":
        refusal = "AdaLoRA changes its ranks from step to step"
    elif config.balance_weight or config.cluster_weight:
        refusal = "losses on gates would count the tokens that fill up a row"
    elif config.activation_offloading:
        refusal = "activation_offloading copies activations while a step runs"
    elif config.gradient_checkpointing:
        refusal = "gradient_checkpointing reads the state of the random generator in each layer"
    if refusal is not None and config.cuda_graphs is True:
        raise TrainingError(f"cuda_graphs: true, but {refusal}. Set cuda_graphs: auto (or false).")
    return refusal


@dataclasses.dataclass
class GraphUse:
    """The use of graphs, for the record.

    Attributes:
        graphs: Number of graphs, one for each size of a row.
        reason: Why micro-batches are launched from Python; None if graphs are replayed.
        seconds_launching: Time in which Python launched a micro-batch.
        seconds_launched: Time until the GPU, too, had finished the launched micro-batch.
        seconds_replayed: Time of a replayed micro-batch.
        difference: Norm of the difference between gradients of a replayed and a launched micro-batch, over that of the
            gradients; None if there is dropout, which differs each time.
    """

    graphs: int = 0
    reason: str | None = None
    seconds_launching: float | None = None
    seconds_launched: float | None = None
    seconds_replayed: float | None = None
    difference: float | None = None


class StepGraphs:
    """Runs micro-batches, as graphs once they are recorded.

    Args:
        trained: The parameters that get gradients.
        required: Whether to keep graphs even if they are not faster, and to raise if recording fails.
        has_dropout: Whether two passes over a batch differ.
        timed: Runs a function, see `run_time`.
    """

    def __init__(
        self,
        trained: Sequence[nn.Parameter],
        *,
        required: bool,
        has_dropout: bool = False,
        timed: "Callable[[Callable[[], Tensor]], tuple[Tensor, float, float]] | None" = None,
    ) -> None:
        self._trained, self._required, self._has_dropout = trained, required, has_dropout
        self._capture, self._timed = Capture(), timed or run_time
        self._graphs: dict[Any, tuple[dict[str, Any], Tensor, Callable[[], Tensor]]] = {}
        self._launched: set[Any] = set()
        self._seen = 0
        self.use = GraphUse()

    @property
    def keeps_gradients(self) -> bool:
        """Whether gradients must stay in place, because graphs write into them."""
        return bool(self._graphs)

    def run(self, micro_batch: MicroBatch, batch: Batch, num_items: Tensor) -> Tensor:
        """Loss of a micro-batch; its gradients are added."""
        if self.use.reason is not None:
            return micro_batch(batch, num_items)
        self._seen += 1
        size = tuple((name, value.shape if isinstance(value, Tensor) else value) for name, value in batch.items())
        if self._seen == _WARM_UP:
            self._launched.add(size)
            return self._timed_launch(micro_batch, batch, num_items)
        if self._seen < _WARM_UP or size not in self._launched:
            self._launched.add(size)  # recorded when it comes again: its kernels must be loaded by then
            return micro_batch(batch, num_items)
        if size not in self._graphs and not self._record(size, micro_batch, batch, num_items):
            return micro_batch(batch, num_items)
        inputs, items, replay = self._graphs[size]
        for name, value in batch.items():
            if isinstance(value, Tensor):
                inputs[name].copy_(value, non_blocking=True)
        items.copy_(num_items, non_blocking=True)
        if self.use.seconds_replayed is None:
            return self._first_replay(replay, lambda: micro_batch(batch, num_items))
        return replay()

    def _timed_launch(self, micro_batch: MicroBatch, batch: Batch, num_items: Tensor) -> Tensor:
        """Launch a micro-batch. Graphs pay only if the GPU waits for launches, and so ends together with the host."""
        loss, launching, whole = self._timed(lambda: micro_batch(batch, num_items))
        self.use.seconds_launching, self.use.seconds_launched = launching, whole
        if not self._required and whole - launching > _HOST_LIMITS_BELOW * launching:
            self._fall_back(f"the GPU is the limit: launches took {launching:.4f} s, and their kernels {whole:.4f} s")
        return loss

    def _record(self, size: Any, micro_batch: MicroBatch, batch: Batch, num_items: Tensor) -> bool:
        """Record a graph for the size of a batch; nothing is computed. Returns whether it worked."""
        for parameter in self._trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        inputs = {name: value.clone() if isinstance(value, Tensor) else value for name, value in batch.items()}
        items = num_items.clone()
        try:
            self._graphs[size] = inputs, items, self._capture(lambda: micro_batch(inputs, items))
        except (RuntimeError, NotImplementedError) as error:  # also torch.OutOfMemoryError
            reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            if self._required:
                raise TrainingError(f"cuda_graphs: true, but a step could not be recorded ({reason})") from error
            self._fall_back(f"a step could not be recorded ({reason})")
            return False
        self.use.graphs = len(self._graphs)
        return True

    def _first_replay(self, replay: Callable[[], Tensor], launch: Callable[[], Tensor]) -> Tensor:
        """Replay the first micro-batch, and compare gradients and time with launching the same one."""
        before = [_grad(parameter).clone() for parameter in self._trained]
        loss, _, self.use.seconds_replayed = self._timed(replay)
        loss = loss.clone()
        if not self._has_dropout:
            after = [_grad(parameter).clone() for parameter in self._trained]
            launch()
            replayed = torch._foreach_sub(after, before)
            launched = torch._foreach_sub([_grad(parameter) for parameter in self._trained], after)
            self.use.difference = float(_norm(torch._foreach_sub(replayed, launched)) / _norm(launched))
            # The launched gradients are the right ones, whatever the graph gave.
            for parameter, gradient in zip(self._trained, torch._foreach_add(before, launched), strict=True):
                _grad(parameter).copy_(gradient)
            if not self.use.difference <= _SAME_WITHIN:
                reason = f"gradients of a replayed micro-batch differ from launched ones by {self.use.difference:.1%}"
                if self._required:
                    raise TrainingError(f"cuda_graphs: true, but {reason}. Set cuda_graphs: false.")
                self._fall_back(reason)
                return loss
        launched_seconds = self.use.seconds_launched
        assert launched_seconds is not None
        if not self._required and self.use.seconds_replayed > _PAYS_BELOW * launched_seconds:
            seconds = f"{self.use.seconds_replayed:.4f} s, a launched one {launched_seconds:.4f} s"
            self._fall_back(f"a replayed micro-batch took {seconds}")
        return loss

    def _fall_back(self, reason: str) -> None:
        _log.info("Steps are launched from Python: %s.", reason)
        self.use.reason = reason
        self.release()

    def release(self) -> None:
        """Free the memory of the graphs."""
        self._graphs.clear()


class Capture:
    """Records the kernels of functions without running them.

    All graphs share their memory: one runs at a time, and its result is read before the next one.
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A function that runs the kernels of `run` and returns the same tensor each time."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
            gc.collect()  # remains of earlier backward passes belong to another stream
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile, for example to copy batches.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = run()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


def run_time(run: Callable[[], Tensor]) -> tuple[Tensor, float, float]:
    """The result of a function, the seconds until it returned, and the seconds until the GPU had finished its work."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    result = run()
    returned = time.perf_counter()
    torch.cuda.synchronize()
    return result, returned - started, time.perf_counter() - started


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(list(tensors))).norm()
