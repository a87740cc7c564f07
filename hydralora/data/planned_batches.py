"""The micro-batches of a plan as a data set of torch, collated in a thread while the training computes."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.utils.data import Dataset

from hydralora.data.batching import StepPlan
from hydralora.data.documents import Batch, TokenisedDocuments


class PlannedBatches(Dataset[Batch]):
    """A map-style data set whose items are the micro-batches of a plan, in order.

    With an item, the thread begins with those that this process reads next: all of the next step, since a trainer reads
    the micro-batches of a step at once. Any order may be read; it is only faster in this one.

    Args:
        collated: Makes a batch of the documents of a micro-batch, `TokenisedDocuments.rows`.
        processes: Number of processes that read in turn.
    """

    def __init__(
        self,
        documents: TokenisedDocuments,
        plan: StepPlan,
        collated: Callable[[Sequence[dict[str, Any]]], Batch],
        processes: int = 1,
    ) -> None:
        self._documents, self._micro_batches, self._collated = documents, plan.micro_batches, collated
        self._stride, self._step = processes, plan.per_step
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: dict[int, Future[Batch]] = {}

    def __len__(self) -> int:
        return len(self._micro_batches)

    def __getitem__(self, index: int) -> Batch:
        future = self._ahead.pop(index, None)
        coming = range(index + self._stride, min(index + self._step, len(self) - 1) + 1, self._stride)
        batch = self._batch(index) if future is None else future.result()
        self._ahead = {i: self._ahead.get(i) or self._thread.submit(self._batch, i) for i in coming}
        return batch

    def _batch(self, index: int) -> Batch:
        return self._collated(self._documents.rows(self._micro_batches[index]))
