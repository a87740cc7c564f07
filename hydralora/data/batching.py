"""Plans the order of a whole run before its first step, only from document lengths and a seed.

A run that resumes gets exactly the batches it would have had, and every method with the same plan sees the same data.
Each optimizer step is a random sample of the whole corpus, so no step belongs to one source. Only inside a step,
documents are sorted by length into micro-batches. This keeps padding low and does not bias the order.
"""

import dataclasses
import heapq
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """The micro-batches of a run.

    Attributes:
        micro_batches: `micro_batches[step * per_step + i]` holds the document indices of micro-batch i of a step.
        per_step: Number of micro-batches in a step, over all processes.
        tokens_of_step: Tokens of each step without padding, [steps].
    """

    micro_batches: tuple[Indices, ...]
    per_step: int
    tokens_of_step: Indices
    padding_share: float

    @property
    def num_steps(self) -> int:
        """Number of optimizer steps."""
        return len(self.tokens_of_step)


def plan_steps(
    lengths: Indices,
    *,
    tokens_per_step: int,
    micro_batches_per_step: int,
    max_steps: int | None = None,
    max_tokens: int | None = None,
    num_epochs: float | None = None,
    seed: int,
    packed: bool = False,
    order: Iterator[int] | None = None,
) -> StepPlan:
    """Plan a run until its budget is spent. Give exactly one of the three budgets.

    Args:
        lengths: Tokens of each document, [documents].
        tokens_per_step: Documents are added to a step until it has at least this many tokens (without padding).
        micro_batches_per_step: Forward passes per step, over all processes.
        max_tokens: Budget in tokens (without padding).
        num_epochs: Budget in passes over the documents; may be a fraction.
        seed: Seed of the order; each epoch has a different order.
        packed: Whether micro-batches are rows without padding, with about equally many tokens. Steps hold the same
            documents in both cases.
        order: Indices of documents without end, in place of one random order after another; see `mixing`.

    Raises:
        ValueError: If not exactly one budget is given, or there are fewer documents than micro-batches in a step.
    """
    if (max_steps, max_tokens, num_epochs).count(None) != 2:
        raise ValueError(
            f"Expected exactly one budget, got max_steps={max_steps}, max_tokens={max_tokens}, num_epochs={num_epochs}"
        )
    if len(lengths) < micro_batches_per_step:
        raise ValueError(
            f"Expected at least {micro_batches_per_step} documents (one for each micro-batch of a step), got "
            f"{len(lengths)}. Lower gradient_accumulation_steps or the number of processes, or add documents."
        )
    tokens = max_tokens if num_epochs is None else int(num_epochs * lengths.sum())
    micro_batches: list[Indices] = []
    tokens_of_step: list[int] = []
    padded, seen = 0, 0
    order = _order(len(lengths), seed) if order is None else order
    for step in _steps(lengths, tokens_per_step, micro_batches_per_step, order):
        if len(tokens_of_step) == max_steps or (tokens is not None and seen >= tokens):
            break
        split = split_by_tokens if packed else split_by_length
        groups = split(lengths, step, micro_batches_per_step)
        micro_batches += groups
        tokens_of_step.append(int(lengths[step].sum()))
        seen += tokens_of_step[-1]
        padded += tokens_of_step[-1] if packed else sum(len(group) * int(lengths[group].max()) for group in groups)
    return StepPlan(tuple(micro_batches), micro_batches_per_step, np.array(tokens_of_step), 1 - seen / padded)


def split_by_length(lengths: Indices, documents: Indices, num_groups: int) -> list[Indices]:
    """Split documents, sorted by length, into groups with the fewest tokens including padding (dynamic programming).

    Args:
        documents: Indices to split, at least `num_groups`.
        num_groups: Number of groups; no group is empty.
    """
    order = documents[np.lexsort((documents, lengths[documents]))]
    sizes = lengths[order]
    n = len(order)
    # cost[j]: fewest padded tokens for the first j documents in the groups so far. A group (i, j] pads to sizes[j-1].
    cost = np.arange(n + 1) * np.concatenate(([0], sizes))
    starts = np.zeros((num_groups, n + 1), dtype=np.int64)
    for group in range(1, num_groups):
        longer = np.full(n + 1, np.iinfo(np.int64).max)
        for j in range(group + 1, n + 1):
            candidates = cost[group:j] + (j - np.arange(group, j)) * sizes[j - 1]
            starts[group, j] = group + int(candidates.argmin())
            longer[j] = candidates.min()
        cost = longer
    groups, end = [], n
    for group in range(num_groups - 1, -1, -1):
        start = int(starts[group, end])
        groups.append(order[start:end])
        end = start
    return groups[::-1]


def split_by_tokens(lengths: Indices, documents: Indices, num_groups: int) -> list[Indices]:
    """Split documents into groups with about equally many tokens: the longest first, each to the smallest group.

    Documents keep their order within a group.

    Args:
        documents: Indices to split, at least `num_groups`.
        num_groups: Number of groups; no group is empty.
    """
    groups: list[list[int]] = [[] for _ in range(num_groups)]
    fewest = [(0, group) for group in range(num_groups)]
    for place in np.argsort(-lengths[documents], kind="stable").tolist():
        tokens, group = fewest[0]
        groups[group].append(place)
        heapq.heapreplace(fewest, (tokens + int(lengths[documents[place]]), group))
    return [documents[sorted(places)] for places in groups]


def _steps(lengths: Indices, tokens_per_step: int, at_least: int, order: Iterator[int]) -> Iterator[Indices]:
    """Yield steps with enough tokens and documents, without end; a step may contain documents of two epochs."""
    step: list[int] = []
    tokens = 0
    for document in order:
        step.append(document)
        tokens += int(lengths[document])
        if tokens >= tokens_per_step and len(step) >= at_least:
            yield np.array(step)
            step, tokens = [], 0


def _order(num_documents: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from np.random.default_rng([seed, epoch]).permutation(num_documents).tolist()
        epoch += 1
