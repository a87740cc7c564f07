"""A base model and documents of a size that trains in a second: one token a byte, two layers of width 32."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hydralora import HydraLoraConfig

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def small_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>", bos_token="<|im_start|>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    fast.chat_template = CHAT_TEMPLATE
    return fast


def small_model() -> LlamaForCausalLM:
    """The same weights in each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = LlamaConfig(
            vocab_size=264,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=256,
        )
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.name_or_path = "small"
    return model


def small_gemma(**options: Any) -> Gemma2ForCausalLM:
    """A model whose norms, activations and output layer are of another kind than Llama's."""
    config = Gemma2Config(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        pad_token_id=256,
        **options,
    )
    return Gemma2ForCausalLM(config).eval().requires_grad_(False)


def small_documents(n: int = 24) -> list[dict[str, Any]]:
    """Sums and reversals, of different lengths."""
    documents = []
    for i in range(n // 2):
        documents.append({"prompt": f"{i} + {2 * i} =", "completion": str(3 * i), "source": "sums"})
        word = "abcdefghijklmnop"[: 2 + i % 9]
        documents.append({"prompt": f"reverse {word}", "completion": word[::-1], "source": "reversals"})
    return documents


def save_run(folder: Path, **config: Any) -> Path:
    """Write base model, documents and a JSON description of a LoRA run; returns the path of the description."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    small_model().save_pretrained(folder / "base")
    small_tokenizer().save_pretrained(folder / "base")
    pq.write_table(pa.Table.from_pylist(small_documents()), folder / "documents.parquet")
    description = {
        "base_model": {"name_or_path": str(folder / "base"), "dtype": "float32"},
        "documents": str(folder / "documents.parquet"),
        "held_out": str(folder / "documents.parquet"),
        "max_length": 64,
        "folder": str(folder / "out"),
        "config": {"tokens_per_step": 128, "gradient_accumulation_steps": 2, "autocast": False, **config},
        "peft_config": {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": 4,
            "lora_dropout": 0.1,
            "target_modules": ["q_proj", "v_proj"],
        },
    }
    path = folder / "run.json"
    path.write_text(json.dumps(description))
    return path


def model_for_long_prompts(**options: Any) -> PeftModel:
    """One token a byte, so prompts with examples are some thousand tokens; adapter away from the identity."""
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        **sizes, vocab_size=264, num_hidden_layers=2, max_position_embeddings=8192, pad_token_id=256, eos_token_id=263
    )
    fields = {"r": 4, "num_experts": 3, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return get_peft_model(
        LlamaForCausalLM(config).eval(), HydraLoraConfig(**{**fields, "init_weights": False, **options})
    ).eval()


def add_through_transformers(model: Any, *arguments: Any) -> None:
    """transformers' own `add_adapter`; skips where it refuses the installed PEFT, as 5.24 refuses all before 0.22."""
    try:
        model.add_adapter(*arguments)
    except ValueError as error:
        if "please use a version >=" not in str(error):
            raise
        pytest.skip(str(error))
