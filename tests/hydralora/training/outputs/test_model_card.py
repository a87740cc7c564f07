"""The card of an adapter, and its code."""

import contextlib
import io
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftConfig

from analysis.experts.prompt_classifier import PromptClassifier
from hydralora import HydraLoraConfig
from hydralora.data import tokenise
from hydralora.training import TrainingConfig, train
from tests.hydralora.small import small_documents, small_model, small_tokenizer


def sequence() -> HydraLoraConfig:
    return HydraLoraConfig(r=2, num_experts=2, router_input="given", target_modules=["q_proj"], task_type="CAUSAL_LM")


@pytest.mark.parametrize(
    ("config", "has_group_model"),
    [
        (LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"), False),
        (sequence(), False),
        (sequence(), True),
        (None, False),
    ],
    ids=["lora", "gates of sequences", "gates by the prompt", "full"],
)
def test_the_code_on_the_card_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: PeftConfig | None, has_group_model: bool
) -> None:
    model, tokenizer = small_model(), small_tokenizer()
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model.name_or_path = str(tmp_path / "base")
    documents = tokenise([{**row, "expert_gates": [0.5, 0.5]} for row in small_documents(4)], tokenizer)
    if config is None or config.peft_type == "LORA":
        documents = tokenise(small_documents(4), tokenizer)
    settings = TrainingConfig(max_steps=1, tokens_per_step=64, gradient_accumulation_steps=1, autocast=False)
    if has_group_model:
        prompts = ["a red cat", "a red dog", "blue sky", "blue sea"]
        PromptClassifier().fit(prompts, ["red", "red", "blue", "blue"]).save(tmp_path / "out" / "group_model")
    train(model, tokenizer, documents, tmp_path / "out", settings, peft_config=config)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == ("transformers" if config is None else "peft")
    [code] = [block.removeprefix("python\n") for block in card.text.split("```") if block.startswith("python\n")]
    assert ("load_group_model" in code) == has_group_model
    monkeypatch.chdir(tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, {})
