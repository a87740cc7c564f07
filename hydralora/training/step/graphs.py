"""Replays micro-batches as CUDA graphs, where launching kernels from Python takes longer than running them.

A graph holds the kernels of one forward and backward pass for one size of a row. Optimiser, clipping and schedule stay
outside. Gradients are added to tensors that stay in place.
"""

import dataclasses
import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hydralora.training.config import TrainingConfig, TrainingError

_WARM_UP = 3  # micro-batches in which kernels are compiled and loaded, before the first recording
_PAYS_BELOW = 0.95  # of the time without a graph

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
    elif not packed:
        refusal = "graphs need rows of few sizes, and the run does not pack"
    elif processes > 1:
        refusal = "the gradients of several processes are joined during the backward pass"
    elif method == "ADALORA":
        refusal = "AdaLoRA changes its ranks from step to step"
    elif config.balance_weight or config.cluster_weight:
        refusal = "losses on gates would count the tokens that fill up a row"
    elif config.gradient_checkpointing:
        refusal = "gradient_checkpointing reads the state of the random generator in each layer"
    if refusal is not None and config.cuda_graphs is True:
        raise TrainingError(f"cuda_graphs: true, but {refusal}. Set cuda_graphs: auto (or false).")
    return refusal


@dataclasses.dataclass
class GraphUse:
    """What was done, for the record.

    Attributes:
        graphs: Number of graphs, one for each size of a row.
        reason: Why micro-batches are launched from Python; None if graphs are replayed.
        seconds_launched: Device time of a micro-batch that was launched from Python.
        seconds_replayed: Device time of a replayed one.
    """

    graphs: int = 0
    reason: str | None = None
    seconds_launched: float | None = None
    seconds_replayed: float | None = None


class StepGraphs:
    """Runs micro-batches, as graphs once they are recorded.

    Args:
        trained: The parameters that get gradients.
        required: Whether to keep graphs even if they are not faster, and to raise if recording fails.
        capture: Records a function, see `Capture`.
        timed: Runs a function, see `device_time`.
    """

    def __init__(
        self,
        trained: Sequence[nn.Parameter],
        *,
        required: bool,
        capture: "Callable[[Callable[[], Tensor]], Callable[[], Tensor]] | None" = None,
        timed: "Callable[[Callable[[], Tensor]], tuple[Tensor, float]] | None" = None,
    ) -> None:
        self._trained, self._required = trained, required
        self._capture, self._timed = capture or Capture(), timed or device_time
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
            loss, self.use.seconds_launched = self._timed(lambda: micro_batch(batch, num_items))
            return loss
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
            loss, self.use.seconds_replayed = self._timed(replay)
            self._keep_or_drop()
            return loss.clone()
        return replay()

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

    def _keep_or_drop(self) -> None:
        launched, replayed = self.use.seconds_launched, self.use.seconds_replayed
        assert launched is not None
        assert replayed is not None
        if not self._required and replayed > _PAYS_BELOW * launched:
            self._fall_back(f"a replayed micro-batch took {replayed:.4f} s, a launched one {launched:.4f} s")

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
            gc.collect()  # what is left of earlier backward passes belongs to another stream
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile, for example to copy batches.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = run()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


def device_time(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The result of a function, and the seconds between its first and its last kernel."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    result = run()
    end.record()
    end.synchronize()
    return result, begin.elapsed_time(end) / 1000
