"""Packed rows by hand, and micro-batches of about equally many tokens."""

import numpy as np
import torch

from hydralora.data import IGNORED, collate_packed, plan_steps
from hydralora.data.batching import split_by_tokens

ROWS = [
    {"input_ids": [5, 6, 7], "answer_start": 2, "expert_gates": [1.0, 0.0], "cluster": 4},
    {"input_ids": [8], "answer_start": 0, "expert_gates": [0.0, 1.0], "cluster": 2},
    {"input_ids": [9, 10, 11, 12], "answer_start": 1, "expert_gates": [0.5, 0.5], "cluster": 3},
]


def test_documents_lie_end_to_end_with_positions_of_their_own() -> None:
    batch = collate_packed(ROWS)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 11, 12]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1, 2, 3]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 3, 4, 8]
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["max_length_q"] == batch["max_length_k"] == 4
    assert batch["document_of_token"].tolist() == [0, 0, 0, 1, 2, 2, 2, 2]


def test_no_document_is_predicted_from_the_one_before() -> None:
    batch = collate_packed(ROWS)
    # The second document is all answer, but nothing of its own comes before its only token.
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, IGNORED, IGNORED, 10, 11, 12]]
    assert batch["answer_index"].tolist() == [1, 4, 5, 6]


def test_gates_and_clusters_of_documents_become_those_of_tokens() -> None:
    batch = collate_packed(ROWS)
    assert batch["expert_gates"].shape == (1, 8, 2)
    assert batch["expert_gates"][0, :, 0].tolist() == [1, 1, 1, 0, 0.5, 0.5, 0.5, 0.5]
    assert batch["cluster"].tolist() == [4, 4, 4, 2, 3, 3, 3, 3]


def test_the_longest_go_first_to_the_group_with_fewest_tokens() -> None:
    lengths = np.array([9, 2, 3, 8, 4, 5])
    groups = split_by_tokens(lengths, np.array([5, 0, 3, 2, 1, 4]), 2)
    # 9 | 8, then 5 to the second (13), 4 to the first (13), 3 to the first (16), 2 to the second (15).
    assert [group.tolist() for group in groups] == [[0, 2, 4], [5, 3, 1]]


def test_packed_steps_hold_the_same_documents_in_more_even_micro_batches() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, size=400)
    options = {"tokens_per_step": 4000, "micro_batches_per_step": 4, "num_epochs": 2.0, "seed": 3}
    padded, packed = plan_steps(lengths, **options), plan_steps(lengths, **options, packed=True)
    assert packed.padding_share == 0 < padded.padding_share
    assert packed.tokens_of_step.tolist() == padded.tokens_of_step.tolist()
    for step in range(padded.num_steps):
        of_step = slice(step * 4, step * 4 + 4)
        groups = packed.micro_batches[of_step]
        assert sorted(np.concatenate(groups)) == sorted(np.concatenate(padded.micro_batches[of_step]))
        tokens = [int(lengths[group].sum()) for group in groups]
        assert max(tokens) - min(tokens) <= 300


def test_no_group_is_empty_when_each_has_one_document() -> None:
    groups = split_by_tokens(np.array([1, 100, 1]), np.array([0, 1, 2]), 3)
    assert sorted(len(group) for group in groups) == [1, 1, 1]
