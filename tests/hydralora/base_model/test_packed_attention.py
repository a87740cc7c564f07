"""The attention over bounds, its kernel replaced by one document at a time, against padded rows."""

from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from hydralora.base_model import packed_attention
from hydralora.base_model.packed_attention import VARLEN, attention_over_bounds, for_attention, varlen_refusal
from hydralora.data import collate, collate_packed, tokenise
from hydralora.evaluation.answer_loss import document_losses
from tests.hydralora.attention_reference import one_at_a_time
from tests.hydralora.small import small_documents, small_model, small_tokenizer


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_attention, "_varlen", one_at_a_time)
    monkeypatch.setattr(packed_attention, "_half", lambda tensor: tensor)


def sliding_model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return MistralForCausalLM(MistralConfig(vocab_size=264, sliding_window=4, **sizes, **heads)).eval()


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("make", [small_model, sliding_model])
def test_documents_in_one_row_have_the_losses_of_padded_ones(make: Any) -> None:
    model = make()
    rows = tokenise(small_documents(10), small_tokenizer(), max_length=64).rows(range(10))
    expected = document_losses(model, collate(rows, 256))
    with attention_over_bounds(model):
        torch.testing.assert_close(document_losses(model, collate_packed(rows)), expected)
        # Padded batches, as those of the held-out loss, work meanwhile.
        torch.testing.assert_close(document_losses(model, collate(rows, 256)), expected)


def test_the_attention_of_before_comes_back() -> None:
    model = small_model()
    before = model.config._attn_implementation
    with attention_over_bounds(model):
        assert model.config._attn_implementation == VARLEN
    assert model.config._attn_implementation == before


@pytest.mark.usefixtures("kernel")
def test_a_model_that_asks_for_more_than_causal_attention_is_refused() -> None:
    options = {"cu_seq_lens_q": torch.tensor([0, 3], dtype=torch.int32), "max_length_q": 3, "softcap": 5.0}
    tensors = [torch.zeros(1, 2, 3, 4) for _ in range(3)]
    with pytest.raises(NotImplementedError, match="softcap"):
        packed_attention._attention(torch.nn.Module(), *tensors, None, **options)


def test_batches_of_other_attentions_are_left_as_they_are() -> None:
    batch = {"input_ids": torch.zeros(1, 3, dtype=torch.long), "cu_seq_lens_q": torch.tensor([0, 3])}
    assert for_attention(small_model(), batch) == batch


def test_why_a_cpu_has_none() -> None:
    assert varlen_refusal(small_model(), autocast=False) == (
        "attention over bounds needs a CUDA device, and the model is on cpu"
    )
