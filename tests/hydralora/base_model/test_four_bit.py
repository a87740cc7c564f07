"""Adapters on a 4-bit base model: trained, read back and exported, and the base left as it was (bitsandbytes)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

import hydralora
from hydralora import HydraLoraConfig
from hydralora.base_model import load_base_model
from hydralora.data import TokenisedDocuments, collate, tokenise
from hydralora.evaluation.answer_loss import answer_logits
from hydralora.gates.export import export_lora
from hydralora.methods import MethodConfig
from hydralora.training import RunOptions, TrainingConfig, TrainingError, TrainingResult
from hydralora.training.run import train_method
from tests.hydralora.small import small_documents, small_model, small_tokenizer

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning:bitsandbytes.*")]


@pytest.fixture
def base_folder(tmp_path: Path) -> Path:
    small_model().save_pretrained(tmp_path / "base")
    small_tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def documents() -> TokenisedDocuments:
    return tokenise(small_documents(), small_tokenizer())


def load(folder: Path) -> Any:
    return load_base_model(str(folder), quantization="4bit", dtype=torch.float32)[0]


def run(method: str, base_folder: Path, documents: TokenisedDocuments) -> TrainingResult:
    settings = MethodConfig(num_experts=2, r=4, target_modules=("q_proj", "down_proj"))
    config = TrainingConfig(
        max_steps=12, tokens_per_step=128, gradient_accumulation_steps=2, learning_rate=0.02, autocast=False
    )
    folder = base_folder.parent / method
    return train_method(
        method,
        settings,
        load(base_folder),
        small_tokenizer(),
        documents,
        folder,
        config,
        options=RunOptions(held_out=documents),
    )


@pytest.mark.parametrize("method", ["hydralora", "lora_r8"])
def test_trains_and_is_read_back(method: str, base_folder: Path, documents: TokenisedDocuments) -> None:
    result = run(method, base_folder, documents)
    assert result.held_out_before is not None
    assert result.held_out_after is not None
    assert result.held_out_after.mean < result.held_out_before.mean - 0.01
    assert result.record["parameters"]["all"] > sum(p.numel() for p in small_model().parameters())
    reloaded = PeftModel.from_pretrained(load(base_folder), result.folder).eval()
    batch = move(collate(documents.rows(range(4)), 0), reloaded)
    with torch.inference_mode():
        torch.testing.assert_close(answer_logits(reloaded, batch)[0], answer_logits(result.model.eval(), batch)[0])


def test_export_is_the_adapter_with_fixed_gates(base_folder: Path, documents: TokenisedDocuments) -> None:
    model = run("hydralora", base_folder, documents).model.eval()
    assert isinstance(model, PeftModel)
    export_lora(model, base_folder.parent / "export", gates="uniform")
    exported = PeftModel.from_pretrained(load(base_folder), base_folder.parent / "export").eval()
    batch = move(collate(documents.rows(range(4)), 0), exported)
    with torch.inference_mode(), hydralora.fixed_gates(model, "uniform"):
        torch.testing.assert_close(answer_logits(exported, batch)[0], answer_logits(model, batch)[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("router_input", ["given", "low_rank"])
def test_the_split(router_input: str, base_folder: Path) -> None:
    """A LoRA beside experts: each row is the plain LoRA of its expert, and everything learns."""
    fields = {
        "r": 2,
        "num_experts": 2,
        "shared_rank": 3,
        "shared_alpha": 4.0,
        "target_modules": ["q_proj", "down_proj"],
    }
    config = HydraLoraConfig(**fields, router_input=router_input, init_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(load(base_folder), config).eval()
    tokens = torch.arange(12).view(2, 6) + 3
    call = {"expert_gates": torch.tensor([1, 0])} if router_input == "given" else {}
    with hydralora.fixed_gates(model, None if call else 1), torch.no_grad():
        row = model(tokens, **call).logits[0]
    export_lora(model, base_folder.parent / "export", gates=1)
    exported = PeftModel.from_pretrained(load(base_folder), base_folder.parent / "export").eval()
    with torch.no_grad():
        torch.testing.assert_close(row, exported(tokens).logits[0], atol=1e-4, rtol=0)
    model.train()(tokens, labels=tokens, **call).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)


def test_the_whole_of_it_is_not_trained(base_folder: Path, documents: TokenisedDocuments) -> None:
    with pytest.raises(TrainingError, match="4-bit base model cannot be trained whole"):
        run("full", base_folder, documents)


def move(batch: dict[str, torch.Tensor], model: PeftModel) -> dict[str, torch.Tensor]:
    return {name: tensor.to(next(model.parameters()).device) for name, tensor in batch.items()}
