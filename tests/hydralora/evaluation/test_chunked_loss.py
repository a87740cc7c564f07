"""Cross entropy in chunks against the whole, and the models that it does not fit."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

import hydralora.evaluation.answer_loss as module
from hydralora.data import collate, tokenise
from hydralora.evaluation.answer_loss import answer_loss, logits_can_be_chunked
from hydralora.evaluation.chunked_loss import chunked_cross_entropy
from tests.hydralora.small import small_documents, small_gemma, small_model, small_tokenizer


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_loss_and_gradient_are_those_of_the_whole(chunk: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 11, bias=bias, dtype=torch.float64).requires_grad_(False)
    hidden = torch.randn(7, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(11, (7,))
    loss = chunked_cross_entropy(hidden, layer, targets, chunk)
    (3 * loss).backward()
    expected_hidden = hidden.detach().clone().requires_grad_()
    expected = nn.functional.cross_entropy(layer(expected_hidden), targets, reduction="sum")
    (3 * expected).backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hidden.grad, expected_hidden.grad, rtol=1e-5, atol=1e-6)


def test_no_answer_tokens_give_no_loss() -> None:
    layer = nn.Linear(6, 11, bias=False).requires_grad_(False)
    hidden = torch.zeros(0, 6, requires_grad=True)
    loss = chunked_cross_entropy(hidden, layer, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0


def test_a_model_whose_logits_are_those_of_its_output_layer_can_be_chunked() -> None:
    model = small_model()
    batch = collate(tokenise(small_documents(6), small_tokenizer()).rows(range(6)), 256)
    assert logits_can_be_chunked(model, batch)
    torch.testing.assert_close(answer_loss(model, batch, chunked=True), answer_loss(model, batch))


def test_only_few_answer_tokens_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the first step of a long row would need the most memory of all."""
    batch = collate(tokenise(small_documents(40), small_tokenizer()).rows(range(40)), 256)
    whole = module.answer_logits
    sizes: list[int] = []

    def counted(model: nn.Module, batch: Mapping[str, Any]) -> Any:
        logits, *others = whole(model, batch)
        sizes.append(len(logits))
        return logits, *others

    monkeypatch.setattr(module, "answer_logits", counted)
    assert logits_can_be_chunked(small_model(), batch)
    assert sizes == [64]


def test_logits_that_a_trainer_turns_into_float32_can_be_chunked() -> None:
    """As accelerate does under autocast."""
    from accelerate.utils.operations import convert_outputs_to_fp32

    model = small_model().to(torch.bfloat16)
    batch = collate(tokenise(small_documents(6), small_tokenizer()).rows(range(6)), 256)
    model.forward = convert_outputs_to_fp32(model.forward)
    assert logits_can_be_chunked(model, batch)
    torch.testing.assert_close(answer_loss(model, batch, chunked=True), answer_loss(model, batch), rtol=1e-2, atol=1e-2)


def test_an_output_layer_that_is_trained_is_not_chunked() -> None:
    batch = collate(tokenise(small_documents(6), small_tokenizer()).rows(range(6)), 256)
    assert not logits_can_be_chunked(small_model().requires_grad_(True), batch)


def test_a_model_that_caps_its_logits_is_not_chunked() -> None:
    model = small_gemma(final_logit_softcapping=0.05)
    batch = collate(tokenise(small_documents(6), small_tokenizer()).rows(range(6)), 256)
    assert not logits_can_be_chunked(model, batch)
