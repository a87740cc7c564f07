"""Tiny models with random weights, the same in every test."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from hydralora import HydraLoraConfig


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    """Two layers, grouped-query attention (4 heads, 2 for keys and values); the same weights in each call."""

    def make(**options: Any) -> LlamaForCausalLM:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
        config = LlamaConfig(**{**sizes, "num_hidden_layers": 2, "vocab_size": 64, "pad_token_id": 0, **options})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return LlamaForCausalLM(config).eval()

    return make


@pytest.fixture
def hydra_llama(tiny_llama: Callable[..., LlamaForCausalLM]) -> Callable[..., PeftModel]:
    """The tiny model with an adapter away from the identity, in evaluation mode."""

    def make(**options: Any) -> PeftModel:
        fields = {"r": 4, "init_weights": False, "task_type": "CAUSAL_LM", "target_modules": "all-linear"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return get_peft_model(tiny_llama(), HydraLoraConfig(**{**fields, **options})).eval()

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(1, 64, (2, 7), generator=torch.Generator().manual_seed(3))


@pytest.fixture(autouse=True)
def no_progress_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "1")
