"""Transformers' own adapter methods and the trainers people use."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments

from hydralora import HydraLoraConfig

CONFIG = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(tokens).logits


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "learning_rate": 0.01,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


# PEFT warns whenever a model has had an adapter before.
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")
def test_methods_of_transformers(tiny_llama: Any, tokens: torch.Tensor, tmp_path: Path) -> None:
    model = tiny_llama()
    base = logits(model, tokens)
    model.add_adapter(HydraLoraConfig(**CONFIG, init_weights=False), adapter_name="first")
    first = logits(model, tokens)
    assert not torch.allclose(first, base)
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    model.disable_adapters()
    assert torch.equal(logits(model, tokens), base)
    model.enable_adapters()

    loaded = tiny_llama()
    loaded.load_adapter(str(tmp_path), adapter_name="copy")
    assert torch.equal(logits(loaded, tokens), first)
    loaded.add_adapter(HydraLoraConfig(**CONFIG, num_experts=2, init_weights=False), adapter_name="second")
    assert loaded.active_adapters() == ["second"]
    assert not torch.allclose(logits(loaded, tokens), first)
    loaded.set_adapter("copy")
    loaded.delete_adapter("second")
    assert torch.equal(logits(loaded, tokens), first)
    # An adapter that PEFT saved loads with transformers' methods, and the other way round.
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path), tokens), first)


def test_trainer(tiny_llama: Any, tokens: torch.Tensor, tmp_path: Path) -> None:
    model = get_peft_model(tiny_llama(), HydraLoraConfig(**CONFIG))
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    trainer = Trainer(model, TrainingArguments(**arguments(tmp_path)), train_dataset=rows)
    before = logits(model, tokens)
    trainer.train()
    trainer.save_model()
    after = logits(model, tokens)
    assert not torch.allclose(after, before)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path), tokens), after)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # in TRL
def test_sft_trainer(tiny_llama: Any, tokens: torch.Tensor, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *"abcdefghij"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    trainer = trl.SFTTrainer(
        tiny_llama(),
        args=trl.SFTConfig(**arguments(tmp_path), max_length=16, bf16=False),
        train_dataset=datasets.Dataset.from_dict({"text": ["a b c d", "e f g h"] * 4}),
        processing_class=wrapped,
        peft_config=HydraLoraConfig(**CONFIG),
    )
    trainer.train()
    trainer.save_model()
    expected = logits(trainer.model, tokens)
    assert torch.equal(logits(PeftModel.from_pretrained(tiny_llama(), tmp_path), tokens), expected)
