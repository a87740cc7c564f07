"""With fsdp the base model is on the CPU when packing is decided, so a small twin on a GPU is tried in its place."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from hydralora.training.step.packing import _small_twin
from tests.hydralora.small import small_model

CPU = torch.device("cpu")


def test_a_twin_is_a_smaller_model_of_the_same_kind() -> None:
    base: Any = small_model()
    base.config.num_hidden_layers = 32
    before = torch.random.get_rng_state()
    twin = _small_twin(base, CPU)
    assert type(twin) is type(base)
    assert len(twin.model.layers) == 2
    assert base.config.num_hidden_layers == 32
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_twin_has_a_layer_of_each_type() -> None:
    kinds = ["full_attention", "full_attention", "full_attention", "sliding_attention"]
    sizes: dict[str, int] = {"vocab_size": 264, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = Qwen2Config(**sizes, num_key_value_heads=2, num_hidden_layers=4, layer_types=kinds, sliding_window=8)
    twin = _small_twin(Qwen2ForCausalLM(config), CPU)
    assert twin.config.layer_types == ["full_attention", "sliding_attention"]


def test_a_twin_without_a_kind_of_module_is_refused() -> None:
    base: Any = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=4, vocab_size=264))
    base.transformer.extra = small_model().model.norm
    with pytest.raises(ValueError, match="LlamaRMSNorm"):
        _small_twin(base, CPU)
