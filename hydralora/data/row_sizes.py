"""Packed rows of a few fixed sizes, so that a step recorded for one row can be replayed for others.

A row is filled up with filler documents. They have no labels, and no other document sees them.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hydralora.data.documents import IGNORED, Batch

_GRAIN = 64  # tokens; a row is filled up to a multiple of it
_MOST_SIZES = 4  # each is recorded once, which takes as long as a few steps


@dataclasses.dataclass(frozen=True)
class RowSizes:
    """The sizes of a run's packed rows.

    Attributes:
        grain: Tokens of a row are a multiple of it.
        answer_grain: Answer tokens of a row are a multiple of it. It is coarser where answers vary more than rows.
        longest: Tokens of the longest document or filler.
        padding_share: Share of fillers among all tokens of the run.
    """

    grain: int
    answer_grain: int
    documents: int
    longest: int
    padding_share: float

    @classmethod
    def of(
        cls, micro_batches: Sequence[NDArray[np.int64]], lengths: NDArray[np.int64], answers: NDArray[np.int64]
    ) -> "RowSizes":
        """Sizes for the micro-batches of a run: the smallest grains that give few different sizes.

        Args:
            micro_batches: Document indices of each micro-batch.
            lengths: Tokens of each document, [documents].
            answers: Answer tokens of each document, [documents].
        """
        tokens = np.array([lengths[batch].sum() for batch in micro_batches])
        targets = np.array([answers[batch].sum() for batch in micro_batches])
        grain = answer_grain = _GRAIN
        while len(set(filled(tokens, grain))) > _MOST_SIZES:
            grain *= 2
        rows = filled(tokens, grain)
        while (
            answer_grain <= targets.max()
            and len(set(zip(rows, filled(targets, answer_grain), strict=True))) > _MOST_SIZES
        ):
            answer_grain *= 2
        longest = int(max(lengths.max(), 1))
        most = max(map(len, micro_batches))
        share = 1 - tokens.sum() / filled(tokens, grain).sum()
        return cls(grain, answer_grain, most + -(-grain // longest), longest, round(float(share), 4))


def filled(count: NDArray[np.int64], grain: int) -> NDArray[np.int64]:
    """The next larger multiple of `grain`; always at least one more."""
    return (count // grain + 1) * grain


def fill_row(batch: Batch, sizes: RowSizes) -> Batch:
    """A result of `collate_packed`, filled up to one of the sizes.

    Each document, each token and each answer of the batch keeps its place. Positions in `answer_index` beyond the
    answers point to fillers, whose label is `IGNORED`.
    """
    bounds, length = batch["cu_seq_lens_q"], batch["input_ids"].shape[1]
    documents = len(bounds) - 1
    tokens = int(filled(np.array(length), sizes.grain))
    answers = int(filled(np.array(len(batch["answer_index"])), sizes.answer_grain))
    extra = torch.arange(tokens - length)
    ends = torch.arange(length + sizes.longest, tokens + sizes.longest, sizes.longest).clamp(max=tokens)
    rest = sizes.documents - documents - len(ends)
    bounds = torch.cat([bounds, ends.int(), torch.full((rest,), tokens, dtype=torch.int32)])
    row = {name: F.pad(batch[name], (0, len(extra))) for name in ("input_ids", "position_ids")}
    row["position_ids"][0, length:] = extra % sizes.longest
    result = {
        **batch,
        **row,
        "labels": F.pad(batch["labels"], (0, len(extra)), value=IGNORED),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": sizes.longest,
        "max_length_k": sizes.longest,
        "document_of_token": torch.cat([batch["document_of_token"], documents + extra // sizes.longest]),
        "answer_index": F.pad(batch["answer_index"], (0, answers - len(batch["answer_index"])), value=tokens - 2),
    }
    if "expert_gates" in batch:
        result["expert_gates"] = F.pad(batch["expert_gates"], (0, 0, 0, len(extra)))
    if "cluster" in batch:
        result["cluster"] = F.pad(batch["cluster"], (0, len(extra)))
    return result
