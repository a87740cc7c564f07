"""Packs documents end to end into one row: a batch without padding.

Documents stay separate: positions restart at each document, and `cu_seq_lens` tells attention where each document
begins (see `hydralora.base_model.packed_attention`). A packed batch has gates and clusters for each token, not for each
document.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hydralora.data.documents import IGNORED, Batch, answer_index


def collate_packed(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """One row of all documents; `labels` are `IGNORED` outside the answers and at the first token of each document.

    The first token is ignored because the token before it belongs to another document.

    Returns:
        `input_ids`, `position_ids`, `labels` [1, T], `cu_seq_lens_q` and `cu_seq_lens_k` [documents + 1] in int32,
        `max_length_q` and `max_length_k` (names of transformers), `document_of_token` [T], `answer_index`
        [answer tokens], and `expert_gates` [1, T, N], `cluster` [T] if the rows have them. `answer_index` is computed
        here, because computing it on a GPU would wait for all earlier work.
    """
    lengths = np.array([len(row["input_ids"]) for row in rows])
    ends = lengths.cumsum()
    begins = ends - lengths
    input_ids = torch.from_numpy(np.concatenate([np.asarray(row["input_ids"], dtype=np.int64) for row in rows]))
    labels = input_ids.clone()
    for begin, row in zip(begins.tolist(), rows, strict=True):
        labels[begin : begin + max(1, row["answer_start"])] = IGNORED
    document_of_token = torch.from_numpy(np.repeat(np.arange(len(rows)), lengths))
    bounds = torch.from_numpy(np.concatenate(([0], ends)).astype(np.int32))
    longest = int(lengths.max())
    batch: Batch = {
        "input_ids": input_ids[None],
        "position_ids": torch.from_numpy(np.arange(ends[-1]) - np.repeat(begins, lengths))[None],
        "labels": labels[None],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
        "document_of_token": document_of_token,
        "answer_index": answer_index(labels[None]),
    }
    if "expert_gates" in rows[0]:
        gates = torch.tensor([row["expert_gates"] for row in rows], dtype=torch.float32)
        batch["expert_gates"] = gates[document_of_token][None]
    if rows[0].get("cluster") is not None:
        batch["cluster"] = torch.tensor([row["cluster"] for row in rows])[document_of_token]
    return batch
