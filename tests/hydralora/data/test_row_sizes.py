"""Filled rows: their losses are those of their documents, and a run has few sizes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hydralora.data import collate_packed
from hydralora.data.row_sizes import RowSizes, fill_row
from hydralora.evaluation.answer_loss import answer_loss
from tests.hydralora.training.step.test_packing import GATED, PACKABLE, adapted, documents


def sizes_of(batches: list[list[int]]) -> RowSizes:
    data = documents()
    answers = data.lengths - np.asarray(data.column("answer_start"))
    return RowSizes.of([np.array(batch) for batch in batches], data.lengths, answers)


@pytest.mark.parametrize("method", PACKABLE)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_filled_row_has_the_loss_and_the_gradients_of_its_documents(method: str, chunked: bool) -> None:
    if chunked and method == "full":
        pytest.skip("the output layer is trained")
    model = adapted(method)
    rows = documents().rows(range(7))
    if method not in GATED:
        rows = [{name: value for name, value in row.items() if name != "expert_gates"} for row in rows]
    batch = collate_packed(rows)
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for each in (batch, fill_row(batch, sizes_of([[*range(7)], [8, 9]]))):
        model.zero_grad()
        loss = answer_loss(model, each, chunked=chunked)
        loss.backward()
        found.append((loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (loss, gradients), (filled_loss, filled_gradients) = found
    torch.testing.assert_close(filled_loss, loss)
    for name, gradient in gradients.items():
        torch.testing.assert_close(filled_gradients[name], gradient, rtol=1e-4, atol=1e-5)


def test_all_rows_of_a_run_have_few_sizes() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 400, 3000)
    answers = np.minimum(lengths, draw.integers(1, 300, 3000))
    order = draw.permutation(3000)
    batches = [order[i : i + draw.integers(1, 40)] for i in range(0, 2960, 40)]
    sizes = RowSizes.of(batches, lengths, answers)
    seen = set()
    for batch in batches:
        rows = [
            {"input_ids": np.ones(lengths[i], dtype=int), "answer_start": int(lengths[i] - answers[i])} for i in batch
        ]
        packed = collate_packed(rows)
        filled = fill_row(packed, sizes)
        count = int(lengths[batch].sum())
        bounds = filled["cu_seq_lens_q"].long()
        assert bounds[-1] == filled["input_ids"].shape[1] > count
        assert 0 <= bounds.diff().min() <= bounds.diff().max() <= filled["max_length_q"]
        assert (filled["labels"][0, count:] == -100).all()
        assert filled["position_ids"].max() < filled["max_length_q"]
        seen.add(tuple(value.shape for value in filled.values() if isinstance(value, Tensor)))
    assert len(seen) <= 8
