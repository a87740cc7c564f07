"""Loss at answer positions against the model's own loss over all positions."""

import pytest
import torch
from peft import LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model

from hydralora import HydraLoraConfig
from hydralora.data import IGNORED, Batch, collate, tokenise
from hydralora.evaluation.answer_loss import answer_loss, document_losses
from tests.hydralora.small import small_documents, small_model, small_tokenizer

CONFIGS = {
    "base": None,
    "lora": LoraConfig(init_lora_weights=False, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "lora on the output layer": LoraConfig(init_lora_weights=False, target_modules=["lm_head"], task_type="CAUSAL_LM"),
    "hydralora": HydraLoraConfig(init_weights=False, num_experts=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    "prompt tuning": PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "prefix tuning": PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
}


@pytest.fixture
def batch() -> Batch:
    return collate(tokenise(small_documents(6), small_tokenizer()).rows(range(6)), 256)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_equals_the_loss_of_the_model(config: PeftConfig | None, batch: Batch) -> None:
    model = small_model().requires_grad_(True) if config is None else get_peft_model(small_model(), config)
    loss = answer_loss(model, batch) / (batch["labels"] != IGNORED).sum()
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected = model(**batch).loss
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert gradients
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7)


def test_losses_of_documents_do_not_depend_on_their_batch(batch: Batch) -> None:
    model = small_model()
    together = document_losses(model, batch)
    alone = [
        document_losses(model, {name: tensor[i : i + 1] for name, tensor in batch.items()}).item() for i in range(6)
    ]
    torch.testing.assert_close(together, torch.tensor(alone))
    torch.testing.assert_close(together.sum(), answer_loss(model, batch))


def test_a_model_without_an_output_layer_is_refused(batch: Batch) -> None:
    with pytest.raises(TypeError, match="causal language model with an output layer, got LlamaModel"):
        answer_loss(small_model().model, batch)
