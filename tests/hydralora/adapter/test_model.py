"""A whole model with the adapter: what each token sees, and that no other row or cache changes its logits."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, convert_to_lora, get_peft_model, set_peft_model_state_dict
from transformers import GPT2Config, GPT2LMHeadModel

from hydralora import HydraLoraConfig
from hydralora.adapter.layer import HydraLoraLayer

LIVE = [{}, {"router_input": "hidden"}, {"shared_a": False}, {"shared_expert": True}]


def logits(model: torch.nn.Module, tokens: torch.Tensor, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens, **options).logits


@pytest.mark.parametrize("options", LIVE)
def test_causal(hydra_llama: Any, tokens: torch.Tensor, options: dict[str, Any]) -> None:
    model = hydra_llama(**options)
    changed = tokens.clone()
    changed[:, 4:] = tokens[:, 4:] % 63 + 1
    torch.testing.assert_close(logits(model, changed)[:, :4], logits(model, tokens)[:, :4])
    assert not torch.allclose(logits(model, changed)[:, 4:], logits(model, tokens)[:, 4:])


@pytest.mark.parametrize("options", LIVE)
def test_other_rows_of_the_batch_change_nothing(
    hydra_llama: Any, tokens: torch.Tensor, options: dict[str, Any]
) -> None:
    model = hydra_llama(**options)
    torch.testing.assert_close(logits(model, tokens)[:1], logits(model, tokens[:1]))


@pytest.mark.parametrize("options", LIVE)
def test_one_token_at_a_time_with_a_cache(hydra_llama: Any, tokens: torch.Tensor, options: dict[str, Any]) -> None:
    model = hydra_llama(**options)
    full = logits(model, tokens)
    with torch.no_grad():
        prefill = model(tokens[:, :3], use_cache=True)
        steps, cache = [prefill.logits], prefill.past_key_values
        for position in range(3, tokens.shape[1]):
            step = model(tokens[:, position : position + 1], past_key_values=cache, use_cache=True)
            steps, cache = [*steps, step.logits], step.past_key_values
    torch.testing.assert_close(torch.cat(steps, 1), full, rtol=1e-4, atol=1e-5)


def test_new_adapter_and_disabled_adapter_are_the_base_model(tiny_llama: Any, tokens: torch.Tensor) -> None:
    base_logits = logits(tiny_llama(), tokens)
    config = HydraLoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    assert torch.equal(logits(get_peft_model(tiny_llama(), config), tokens), base_logits)
    config.init_weights = False
    model = get_peft_model(tiny_llama(), config)
    assert not torch.allclose(logits(model, tokens), base_logits)
    with model.disable_adapter():
        assert torch.equal(logits(model, tokens), base_logits)
    assert torch.equal(logits(model.unload(), tokens), base_logits)


def test_training_touches_the_adapter_alone(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama()
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if ".hydralora_" in name}
    model(tokens, labels=tokens).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


def test_shapes_of_grouped_query_attention_and_tied_embeddings(tiny_llama: Any, tokens: torch.Tensor) -> None:
    model = get_peft_model(tiny_llama(tie_word_embeddings=True), HydraLoraConfig(target_modules="all-linear", r=4))
    layers = {name: module for name, module in model.named_modules() if isinstance(module, HydraLoraLayer)}
    assert len(layers) == 14  # seven in each of two blocks; the tied head is no target
    key = layers["base_model.model.model.layers.0.self_attn.k_proj"]
    assert key.hydralora_B["default"].weight.shape == (16, 12)
    assert model.get_base_model().lm_head.weight is model.get_base_model().model.embed_tokens.weight


@pytest.mark.parametrize("method", ["merge_and_unload", "merge_adapter"])
def test_live_gates_refuse_to_merge_and_leave_the_model_alone(
    hydra_llama: Any, tokens: torch.Tensor, method: str
) -> None:
    model = hydra_llama()
    # The first layer could be merged, the last could not: nothing may have changed when the error comes.
    first = next(module for module in model.modules() if isinstance(module, HydraLoraLayer))
    first.fixed_gate_vectors["default"] = torch.full((3,), 1 / 3)
    before = logits(model, tokens)
    with pytest.raises(ValueError, match=r"'default' cannot be merged: its 3 experts .*hydralora\.export_lora"):
        getattr(model, method)()
    assert torch.equal(logits(model, tokens), before)


@pytest.mark.parametrize("options", [{"num_experts": 1}, {"router_input": "uniform"}])
def test_fixed_gates_merge(hydra_llama: Any, tokens: torch.Tensor, options: dict[str, Any]) -> None:
    model = hydra_llama(**options)
    expected = logits(model, tokens)
    model.merge_adapter()
    torch.testing.assert_close(logits(model, tokens), expected, rtol=1e-4, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(logits(model, tokens), expected, rtol=1e-4, atol=1e-5)
    merged = model.merge_and_unload()
    assert not any(isinstance(module, HydraLoraLayer) for module in merged.modules())
    torch.testing.assert_close(logits(merged, tokens), expected, rtol=1e-4, atol=1e-5)


def test_only_the_named_adapter_decides_about_merging(hydra_llama: Any) -> None:
    model = hydra_llama()
    model.add_adapter("single", HydraLoraConfig(num_experts=1, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.merge_adapter(adapter_names=["single"])
    model.unmerge_adapter()
    with pytest.raises(ValueError, match="'default' cannot be merged"):
        model.merge_adapter()


def test_one_expert_converts_to_lora(hydra_llama: Any, tiny_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(num_experts=1)
    assert model.supports_lora_conversion()
    config, state_dict = convert_to_lora(model, rank=4)
    lora = get_peft_model(tiny_llama(), config).eval()
    set_peft_model_state_dict(lora, state_dict)
    torch.testing.assert_close(logits(lora, tokens), logits(model, tokens), rtol=1e-3, atol=1e-4)
    assert not hydra_llama().supports_lora_conversion()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_conversion_keeps_the_dtype(tiny_llama: Any, dtype: torch.dtype) -> None:
    options = {"router_input": "uniform", "target_modules": ["q_proj"], "init_weights": False}
    model = get_peft_model(tiny_llama().to(dtype), HydraLoraConfig(r=4, **options), autocast_adapter_dtype=False)
    _, state = convert_to_lora(model, rank=4)
    assert {tensor.dtype for tensor in state.values()} == {dtype}


def test_one_expert_trains_as_lora_does(tiny_llama: Any, tokens: torch.Tensor) -> None:
    fields = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    hydra = get_peft_model(tiny_llama(), HydraLoraConfig(num_experts=1, **fields))
    lora = get_peft_model(tiny_llama(), LoraConfig(**fields))
    weights = {key.replace("hydralora_", "lora_"): value for key, value in hydra.state_dict().items()}
    lora.load_state_dict(weights)
    for model in (hydra, lora):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
        for _ in range(3):
            model(tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(logits(hydra, tokens), logits(lora, tokens), rtol=1e-4, atol=1e-5)


def test_gpt2(tokens: torch.Tensor) -> None:
    base = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=64)).eval()
    config = HydraLoraConfig(target_modules=["c_attn", "c_fc"], init_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(base), config).eval()
    full = logits(model, tokens)
    assert not torch.allclose(full, logits(base, tokens))
    torch.testing.assert_close(logits(model, tokens[:, :4]), full[:, :4])


def test_a_target_that_is_not_linear(tiny_llama: Any) -> None:
    with pytest.raises(ValueError, match=r"Embedding.* is not supported: expected `torch.nn.Linear`"):
        get_peft_model(tiny_llama(), HydraLoraConfig(target_modules=["embed_tokens"]))


def test_mixed_batch_of_adapters(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model: PeftModel = hydra_llama()
    other = HydraLoraConfig(num_experts=2, init_weights=False, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model.add_adapter("other", other)
    model.eval()
    batch = tokens[[0, 1, 0]]
    mixed = logits(model, batch, adapter_names=["default", "other", "__base__"])
    model.set_adapter("default")
    torch.testing.assert_close(mixed[:1], logits(model, batch[:1]))
    model.set_adapter("other")
    torch.testing.assert_close(mixed[1:2], logits(model, batch[1:2]))
    with model.disable_adapter():
        torch.testing.assert_close(mixed[2:], logits(model, batch[2:]))


def test_mixed_batch_in_beam_search(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama()
    options = {"max_new_tokens": 3, "num_beams": 2, "do_sample": False}
    mixed = model.generate(input_ids=tokens, adapter_names=["default", "__base__"], **options)
    assert torch.equal(mixed[:1], model.generate(input_ids=tokens[:1], **options))
    with model.disable_adapter():
        assert torch.equal(mixed[1:], model.generate(input_ids=tokens[1:], **options))


@pytest.mark.parametrize(
    ("adapter_names", "message"),
    [
        (["default", "missing"], r"non-existing adapter\(s\): missing"),
        (["default"], "but got 1 and 2 respectively"),
    ],
)
def test_mixed_batch_refuses(hydra_llama: Any, tokens: torch.Tensor, adapter_names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hydra_llama()(tokens, adapter_names=adapter_names)


def test_mixed_batch_refuses_training_and_merged_adapters(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(num_experts=1)
    with pytest.raises(ValueError, match="training mode"):
        model.train()(tokens, adapter_names=["default"] * 2)
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match="merged adapters"):
        model(tokens, adapter_names=["default"] * 2)
