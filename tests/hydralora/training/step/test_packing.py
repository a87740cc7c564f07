"""Packed rows against padded ones: the same losses, gradients and trained weights, for every method that can pack."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    StableLmConfig,
)

from hydralora.base_model import packed_attention
from hydralora.data import Batch, TokenisedDocuments, collate, collate_packed, tokenise
from hydralora.evaluation.answer_loss import answer_loss, document_losses, logits_can_be_chunked
from hydralora.methods import METHODS, MethodConfig, adapt
from hydralora.training import RunOptions, TrainingConfig, TrainingError
from hydralora.training.run import train_method
from hydralora.training.step import packing
from hydralora.training.step.packing import decide_packing
from hydralora.training.trainer import AnswerTrainer
from tests.hydralora.attention_reference import one_at_a_time
from tests.hydralora.small import small_documents, small_model, small_tokenizer

VIRTUAL = {"prefix_tuning", "prompt_tuning", "p_tuning"}
PACKABLE = sorted(set(METHODS) - VIRTUAL)
GATED = {"hydralora_sequence", "hydralora_split"}  # by documents
SETTINGS = MethodConfig(num_experts=3, target_modules="all-linear", total_steps=20, match_parameters=5000)
CONFIG = TrainingConfig(max_steps=3, tokens_per_step=200, gradient_accumulation_steps=2, autocast=False)


def documents(n: int = 12) -> TokenisedDocuments:
    rows = [
        {**row, "cluster": i % 3, "expert_gates": [float(i % 3 == 0), float(i % 3 == 1), 0.5]}
        for i, row in enumerate(small_documents(n))
    ]
    return tokenise(rows, small_tokenizer(), max_length=64)


def adapted(method: str) -> Any:
    """With an adapter away from the identity, so that gates and factors matter."""
    torch.manual_seed(0)
    model: Any = adapt(small_model(), method, SETTINGS)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad and hasattr(model, "peft_config"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def batches(method: str) -> tuple[Batch, Batch]:
    rows = documents().rows(range(9))
    if method not in GATED:
        rows = [{name: value for name, value in row.items() if name != "expert_gates"} for row in rows]
    return collate(rows, 256), collate_packed(rows)


@pytest.mark.parametrize("method", PACKABLE)
def test_loss_and_gradients_are_those_of_padded_rows(method: str) -> None:
    model = adapted(method)
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for batch in batches(method):
        model.zero_grad()
        loss = answer_loss(model, batch)
        loss.backward()
        found.append((loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    (padded, padded_gradients), (packed, packed_gradients) = found
    torch.testing.assert_close(packed, padded)
    assert padded_gradients.keys() == packed_gradients.keys()
    assert padded_gradients
    for name, gradient in padded_gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_losses_of_documents_are_kept_apart(attention: str) -> None:
    model = adapted("hydralora")
    model.set_attn_implementation(attention)
    padded, packed = batches("hydralora")
    torch.testing.assert_close(document_losses(model, packed), document_losses(model, padded))


def trained(folder: Path, method: str, packs: Any, **options: Any) -> tuple[dict[str, Tensor], Any]:
    config = TrainingConfig(**{**vars(CONFIG), "packing": packs, **options})
    settings = MethodConfig(num_experts=3, target_modules=("q_proj", "v_proj"))
    result = train_method(
        method,
        settings,
        small_model(),
        small_tokenizer(),
        documents(),
        folder,
        config,
        options=RunOptions(held_out=documents()),
    )
    return {n: p.detach().clone() for n, p in result.model.named_parameters() if p.requires_grad}, result


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("hydralora", {}),
        ("hydralora", {"gradient_checkpointing": True}),
        ("hydralora_sequence", {}),
        ("hydralora_sequence", {"gradient_checkpointing": True}),
        ("lora_r8", {}),
        ("full", {}),
    ],
)
def test_a_packed_training_ends_where_a_padded_one_does(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    padded, before = trained(tmp_path / "padded", method, False, **options)
    packed, after = trained(tmp_path / "packed", method, True, **options)
    for name, parameter in padded.items():
        # Adam divides by the gradient's size, so a rounding of a tiny gradient is as large as a step.
        assert (packed[name] - parameter).norm() <= 2e-2 * parameter.norm() + 1e-6, name
    difference = after.held_out_after.loss_sums - before.held_out_after.loss_sums
    assert abs(difference).max() <= 2e-3 * before.held_out_after.loss_sums.max()
    assert after.record["packing"] == {"packed": True, "attention": "sdpa", "reason": None}
    assert after.record["padding_share"] == 0
    assert before.record["packing"]["reason"] == "switched off"


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True, "eval_steps": 2}])
def test_the_path_of_gpus_with_its_kernel_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Attention over bounds, and the loss in chunks; held-out documents in between are padded."""
    padded, before = trained(tmp_path / "padded", "hydralora_split", False)
    monkeypatch.setattr(packed_attention, "_varlen", one_at_a_time)
    monkeypatch.setattr(packed_attention, "_half", lambda tensor: tensor)
    monkeypatch.setattr(packing, "varlen_refusal", lambda *_, **__: None)
    monkeypatch.setattr(AnswerTrainer, "_chunks_loss", lambda _, model, inputs: logits_can_be_chunked(model, inputs))
    packed, after = trained(tmp_path / "packed", "hydralora_split", "auto", **options)
    assert after.record["packing"] == {"packed": True, "attention": "hydralora_varlen", "reason": None}
    assert after.model.config._attn_implementation == before.model.config._attn_implementation
    for name, parameter in padded.items():
        assert (packed[name] - parameter).norm() <= 2e-2 * parameter.norm() + 1e-6, name
    difference = after.held_out_after.loss_sums - before.held_out_after.loss_sums
    assert abs(difference).max() <= 2e-3 * before.held_out_after.loss_sums.max()


def test_cluster_and_balance_losses_are_those_of_padded_rows(tmp_path: Path) -> None:
    """With one micro-batch a step; these losses are means over the tokens of a micro-batch."""
    options = {"balance_weight": 0.5, "cluster_weight": 0.5, "gradient_accumulation_steps": 1}
    padded, _ = trained(tmp_path / "padded", "hydralora", False, **options)
    packed, _ = trained(tmp_path / "packed", "hydralora", True, **options)
    for name, parameter in padded.items():
        assert (packed[name] - parameter).norm() <= 2e-2 * parameter.norm() + 1e-6, name


@pytest.mark.parametrize("method", sorted(VIRTUAL))
def test_methods_with_virtual_tokens_stay_padded(tmp_path: Path, method: str) -> None:
    model = small_model()
    peft_config = METHODS[method].config(model, SETTINGS)
    with pytest.raises(TrainingError, match=r"packing: true, but .* virtual tokens"):
        decide_packing(model, peft_config, TrainingConfig(max_steps=1, packing=True))
    assert not decide_packing(model, peft_config, TrainingConfig(max_steps=1)).packed
    assert not (tmp_path / "out").exists()


def test_on_cpus_rows_are_padded_unless_asked(tmp_path: Path) -> None:
    decision = decide_packing(small_model(), None, TrainingConfig(max_steps=1))
    assert not decision.packed
    assert decision.reason is not None
    assert "CUDA" in decision.reason


def test_a_model_whose_state_runs_along_the_row_is_refused() -> None:
    config = MambaConfig(vocab_size=264, hidden_size=32, num_hidden_layers=1, state_size=4, expand=2)
    with pytest.raises(TrainingError, match=r"packing: true, but .*Mamba"):
        decide_packing(MambaForCausalLM(config).eval(), None, TrainingConfig(max_steps=1, packing=True))


SIZES: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=264, hidden_size=32, n_layer=2, n_head=4),  # the distance of tokens, not their positions
        Lfm2Config(**SIZES, layer_types=["conv", "full_attention"]),  # a convolution along the row
    ],
    ids=["alibi", "convolution"],
)
def test_a_model_in_which_a_document_sees_another_is_refused(config: Any) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(TrainingError, match="a document sees the one before it"):
        decide_packing(model, None, TrainingConfig(max_steps=1, packing=True))


def test_a_model_that_hands_no_bounds_to_its_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "varlen_refusal", lambda *_, **__: None)
    model = AutoModelForCausalLM.from_config(StableLmConfig(**SIZES)).eval()
    assert "sees the one before" in str(decide_packing(model, None, TrainingConfig(max_steps=1)).reason)


@pytest.mark.parametrize(
    "model",
    [
        MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)),
        GPT2LMHeadModel(GPT2Config(vocab_size=264, n_embd=32, n_layer=1, n_head=4, n_positions=128)),
        MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
    ],
    ids=["mixture of experts", "learned positions", "sliding window"],
)
def test_other_kinds_of_models(model: Any) -> None:
    model = copy.deepcopy(model).eval()
    assert decide_packing(model, None, TrainingConfig(max_steps=1, packing=True)).packed
    rows = [{k: v for k, v in row.items() if k != "expert_gates"} for row in documents().rows(range(5))]
    torch.testing.assert_close(document_losses(model, collate_packed(rows)), document_losses(model, collate(rows, 256)))


def test_what_packing_may_be() -> None:
    with pytest.raises(ValueError, match="Expected packing true, false"):
        TrainingConfig(max_steps=1, packing="yes")  # type: ignore[arg-type]
