"""What is no causal language model is refused before anything is changed."""

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from transformers import BertConfig, BertLMHeadModel, T5Config, T5ForConditionalGeneration

from hydralora.training import TrainingConfig, TrainingError, train
from hydralora.training.step.probe import check_is_causal
from tests.hydralora.small import small_model, small_tokenizer
from tests.hydralora.training.step.test_packing import documents

BERT = {"vocab_size": 264, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (BertLMHeadModel(BertConfig(**BERT)), "got BertLMHeadModel, in which a token sees later ones"),
        (
            T5ForConditionalGeneration(
                T5Config(vocab_size=264, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
            ),
            "got T5ForConditionalGeneration, which does not run on tokens alone",
        ),
    ],
    ids=["encoder", "encoder and decoder"],
)
def test_a_model_that_is_not_causal_is_refused(tmp_path: Path, model: Any, reason: str) -> None:
    config = TrainingConfig(max_steps=1, tokens_per_step=100, gradient_accumulation_steps=1, autocast=False)
    lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    with pytest.raises(TrainingError, match=f"Expected a causal language model, {reason}"):
        train(model, small_tokenizer(), documents(), tmp_path / "out", config, peft_config=lora)
    assert not (tmp_path / "out").exists()
    assert not any("lora" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("model", [small_model(), BertLMHeadModel(BertConfig(**BERT, is_decoder=True))])
def test_a_decoder_is_not(model: Any) -> None:
    model.train()
    check_is_causal(model, autocast=False)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
