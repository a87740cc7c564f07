"""Recording, calibration, comparison and export on models that are no plain decoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

import hydralora
from hydralora import HydraLoraConfig, calibrate_gates, compare_with_live, record_gates
from hydralora.adapter.state import hydralora_layers
from hydralora.gates.losses import balance_loss, cluster_loss
from hydralora.gates.recording import document_statistics
from hydralora.gates.surgery import upcycle

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def adapted(base: Any, **options: Any) -> Any:
    fields = {"r": 4, "init_weights": False, "target_modules": "all-linear"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return get_peft_model(base.eval(), HydraLoraConfig(**{**fields, **options})).eval()


def t5() -> Any:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(vocab_size=64, **sizes, decoder_start_token_id=0, pad_token_id=0)
    return transformers.T5ForConditionalGeneration(config)


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning")
def test_gates_behind_a_router_of_experts_have_rows_again(tokens: Tensor) -> None:
    sizes = {"num_key_value_heads": 2, "num_experts": 4, "moe_intermediate_size": 16}
    config = transformers.Qwen2MoeConfig(**SMALL, **sizes, shared_expert_intermediate_size=16)
    model = adapted(transformers.Qwen2MoeForCausalLM(config))
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    with record_gates(model) as gates:
        model(input_ids=tokens, attention_mask=mask, use_cache=False)
    assert {layer.shape for layer in gates.values()} == {(2, 7, 3)}
    assert 0 <= float(balance_loss(gates, mask).detach()) < 2
    by_hand = torch.stack([-layer[[0, 1], :, [0, 2]].log()[mask.bool()].mean() for layer in gates.values()]).mean()
    torch.testing.assert_close(cluster_loss(gates, torch.tensor([0, 2]), mask), by_hand)


def test_a_pooler_counts_once_for_each_sequence(tokens: Tensor) -> None:
    model = adapted(transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)), task_type="SEQ_CLS")
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    with record_gates(model) as gates, torch.no_grad():
        model(input_ids=tokens, attention_mask=mask)
    assert gates["bert.pooler.dense"].shape == (2, 1, 3)
    calibrated = calibrate_gates(model, [{"input_ids": tokens, "attention_mask": mask}])
    torch.testing.assert_close(calibrated["bert.pooler.dense"], gates["bert.pooler.dense"].mean((0, 1)))
    query = "bert.encoder.layer.1.attention.self.query"
    torch.testing.assert_close(calibrated[query], gates[query][mask.bool()].mean(0))


def test_all_runs_of_a_layer_count(tokens: Tensor) -> None:
    config = transformers.AlbertConfig(**{**SMALL, "num_hidden_layers": 3}, embedding_size=16)
    model = adapted(transformers.AlbertForSequenceClassification(config), target_modules=["query"])
    ((name, layer),) = hydralora_layers(model).items()
    runs: list[Tensor] = []
    layer.hydralora_router["default"].register_forward_hook(lambda _, __, logits: runs.append(logits.softmax(-1)))
    with record_gates(model) as gates, torch.no_grad():
        model(input_ids=tokens)
        first = gates[name].clone()
        model(input_ids=tokens)
    assert len(runs) == 6
    torch.testing.assert_close(first, torch.stack(runs[:3]).mean(0))
    torch.testing.assert_close(gates[name], first)


def test_each_side_has_its_own_mask(tokens: Tensor) -> None:
    """Layers of the encoder and cross attention see the encoder's tokens, the rest those that have labels."""
    model = adapted(t5(), task_type="SEQ_2_SEQ_LM")
    mask = torch.ones_like(tokens)
    mask[1, :4] = 0
    labels = tokens.clone()  # as long as the input: the length tells nothing
    labels[0, 5:] = -100
    calibrated = calibrate_gates(model, [{"input_ids": tokens, "attention_mask": mask, "labels": labels}])
    with record_gates(model) as gates, torch.no_grad():
        model(input_ids=tokens, attention_mask=mask, labels=labels)
    of_encoder = [
        name
        for name in gates
        if name.startswith("encoder") or ".EncDecAttention.k" in name or ".EncDecAttention.v" in name
    ]
    assert 0 < len(of_encoder) < len(gates)
    for name, layer in gates.items():
        kept = mask.bool() if name in of_encoder else labels != -100
        torch.testing.assert_close(calibrated[name], layer[kept].mean(0))
    statistics, _ = document_statistics(model, {"input_ids": tokens, "labels": labels[:, :3]})
    assert statistics.num_tokens.tolist() == [7, 7]
    assert statistics.layer_tokens[-1].tolist() == [3, 3]
    with pytest.raises(ValueError, match=r"give a mask for each by its name"):
        balance_loss({"encoder": gates[of_encoder[0]], "decoder": gates[of_encoder[0]][:, :3]}, mask)


def bert(kind: Any, **options: Any) -> Any:
    return kind(transformers.BertConfig(**SMALL, **options))


def llama() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=2))


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "encoder and decoder": (t5, "tokens"),
    "masked": (lambda: bert(transformers.BertForMaskedLM), "tokens"),
    "causal": (llama, "tokens"),
    "tokens": (lambda: bert(transformers.BertForTokenClassification, num_labels=3), "classes"),
    "sequences": (lambda: bert(transformers.BertForSequenceClassification, num_labels=3), "rows"),
}


@pytest.mark.parametrize(("make", "kind"), MODELS.values(), ids=MODELS)
def test_labels_are_read_as_the_model_reads_them(tokens: Tensor, make: Callable[[], Any], kind: str) -> None:
    model = adapted(make())
    labels = {"tokens": tokens.clone(), "classes": tokens % 3, "rows": torch.tensor([2, 0])}[kind]
    if kind != "rows":
        labels[0, 2:4] = -100
    batch = {"input_ids": tokens, "labels": labels}
    with torch.no_grad():
        own = float(model(**batch).loss)
    gap = compare_with_live(model, 1, [batch])
    assert gap.live_loss == pytest.approx(own, abs=1e-5)
    assert gap.mean_kl > 0


def test_a_loss_that_is_no_cross_entropy(tokens: Tensor) -> None:
    model = adapted(transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, num_labels=1)))
    with pytest.raises(ValueError, match="the loss of BertForSequenceClassification is not a cross entropy"):
        compare_with_live(model, 1, [{"input_ids": tokens, "labels": torch.tensor([0.5, 1.0])}])
    assert not any(layer.fixed_gate_vectors for layer in hydralora_layers(model).values())


def test_embeddings_of_another_size_belong_to_the_adapter(tiny_llama: Any, tokens: Tensor, tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "base")

    def grown(seed: int) -> Any:
        base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        torch.manual_seed(seed)
        base.resize_token_embeddings(70, mean_resizing=False)
        return base.eval()

    model = adapted(grown(1), router_input="uniform")
    ids = torch.tensor([[65, 3, 69]])
    with pytest.raises(ValueError, match=r"embed_tokens.weight.*portable=False"):
        hydralora.to_lora(model)
    hydralora.export_lora(model, tmp_path / "lora", portable=False)
    plain = PeftModel.from_pretrained(grown(2), tmp_path / "lora").eval()
    torch.testing.assert_close(F.log_softmax(plain(ids).logits, -1), F.log_softmax(model(ids).logits, -1))


LOST: dict[str, tuple[dict[str, Any], str]] = {
    "trained tokens": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    "biases": ({"bias": "lora_only"}, "bias"),
    "a part of the base": ({"init_lora_weights": "pissa"}, "base model changed by init_lora_weights='pissa'"),
    "an invocation": ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    "an embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, "an adapted Embedding"),
}


@pytest.mark.parametrize(("options", "message"), LOST.values(), ids=LOST)
def test_upcycle_loses_nothing(tiny_llama: Any, options: dict[str, Any], message: str) -> None:
    fields = {"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **options}
    model = get_peft_model(tiny_llama(), LoraConfig(**fields))
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match=message):
        upcycle(model, 3)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_upcycle_refuses_a_scaling_set_by_hand(tiny_llama: Any) -> None:
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    model.base_model.model.model.layers[0].self_attn.q_proj.set_scale("default", 3.0)
    with pytest.raises(ValueError, match="a scaling set by hand"):
        upcycle(model, 3)
