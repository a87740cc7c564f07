"""Gates given from outside, one vector for each sequence."""

import copy
import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from transformers import GenerationConfig

import hydralora
from hydralora.adapter.layer import HydraLoraLayer

GATES = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])


def set_static(model: torch.nn.Module, gates: torch.Tensor) -> None:
    for layer in model.modules():
        if isinstance(layer, HydraLoraLayer):
            layer.fixed_gate_vectors["default"] = gates


def test_each_row_is_the_model_with_its_gates(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(router_input="given", shared_expert=True)
    assert not any("router" in name for name, _ in model.named_parameters())
    given = model(tokens, expert_gates=GATES).logits
    with hydralora.expert_gates(model, GATES):
        assert torch.equal(model(tokens).logits, given)
    for row in range(2):
        set_static(model, GATES[row])
        torch.testing.assert_close(given[row], model(tokens).logits[row])


def test_a_live_router_ignores_given_gates(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama()
    assert torch.equal(model(tokens, expert_gates=GATES).logits, model(tokens).logits)


def test_gates_take_the_fused_path_unless_they_learn(
    hydra_llama: Any, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hydra_llama(router_input="given", shared_expert=True)
    fused = model(tokens, expert_gates=GATES).logits
    learning = GATES.clone().requires_grad_()
    logits = model(tokens, expert_gates=learning).logits
    torch.testing.assert_close(logits, fused)
    logits.sum().backward()
    assert learning.grad is not None
    monkeypatch.setattr("hydralora.adapter.linear.hydra_linear", lambda *_: pytest.fail("fused"))
    model(tokens, expert_gates=learning)
    with pytest.raises(BaseException, match="fused"):
        model(tokens, expert_gates=GATES)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_generation(hydra_llama: Any, tokens: torch.Tensor, num_beams: int) -> None:
    model = hydra_llama(router_input="given", lora_alpha=64)
    options = {"max_new_tokens": 4, "num_beams": num_beams, "do_sample": False}
    with hydralora.expert_gates(model, GATES):
        both = model.generate(input_ids=tokens, **options)
    for row in range(2):
        with hydralora.expert_gates(model, GATES[row : row + 1]):
            assert torch.equal(both[row : row + 1], model.generate(input_ids=tokens[row : row + 1], **options))
    with hydralora.expert_gates(model, GATES):
        by_position = model.get_base_model().generate(tokens, GenerationConfig(**options))
    assert torch.equal(by_position, both)


# Its new name is not in transformers 5.17 yet.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("router_input", ["given", "low_rank"])
def test_gradient_checkpointing(hydra_llama: Any, tokens: torch.Tensor, router_input: str, use_reentrant: bool) -> None:
    """Backward runs the layers again when both forward passes and their gates are over."""

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = hydra_llama(router_input=router_input).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
        first = model(tokens, labels=tokens, expert_gates=GATES).loss
        second = model(tokens[:1], labels=tokens[:1], expert_gates=GATES[1:]).loss
        (first + 2 * second).backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    torch.testing.assert_close(gradients(True), gradients(False))


@pytest.mark.parametrize("with_hooks", [False, True], ids=["fused", "eager"])
def test_a_single_expert(hydra_llama: Any, tokens: torch.Tensor, with_hooks: bool) -> None:
    """It is always on, unless gates are given or fixed."""
    model = hydra_llama(router_input="given", num_experts=1, shared_rank=2)
    if with_hooks:
        for layer in model.modules():
            if isinstance(layer, HydraLoraLayer):
                layer.hydralora_A["default"].register_forward_hook(lambda *_: None)
    on, off = model(tokens).logits, model(tokens, expert_gates=torch.tensor([-1, -1])).logits
    both = model(tokens, expert_gates=torch.tensor([0, -1])).logits
    torch.testing.assert_close(both, torch.stack((on[0], off[1])))
    assert not torch.allclose(on, off)
    hydralora.set_fixed_gates(model, torch.zeros(1))
    torch.testing.assert_close(model(tokens).logits, off)


def test_copies_have_no_gates(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(router_input="given")
    with hydralora.expert_gates(model, GATES):
        copied = copy.deepcopy(model)
        with pytest.raises(ValueError, match="needs gates"):
            copied(tokens)
        with pytest.raises(ValueError, match="needs gates"):
            copied.get_base_model().generate(tokens, max_new_tokens=1)


def test_mixed_batch(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(router_input="given")
    mixed = model(tokens, adapter_names=["__base__", "default"], expert_gates=GATES).logits
    torch.testing.assert_close(mixed[1:], model(tokens[1:], expert_gates=GATES[1:]).logits)


def test_missing_and_wrong_gates(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(router_input="given")
    with pytest.raises(ValueError, match=r"needs gates: call the model with expert_gates=\[batch, 3\]"):
        model(tokens)
    with pytest.raises(
        ValueError, match=r"Expected expert_gates \[batch, 3\] for an input of shape \(2, 7\), got \(2, 4\)"
    ):
        model(tokens, expert_gates=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"got \(3, 3\)"):
        model(tokens, expert_gates=torch.ones(3, 3))
    assert all(layer.given_gates is None for layer in model.modules() if isinstance(layer, HydraLoraLayer))


SPLIT = {"router_input": "given", "shared_rank": 5}


@pytest.mark.parametrize("options", [SPLIT, {"router_input": "given", "shared_expert": True}], ids=["LoRA", "expert"])
def test_gates_of_each_token(hydra_llama: Any, tokens: torch.Tensor, options: dict[str, Any]) -> None:
    """Every token is computed as in a batch in which all have its gates; the number of an expert is a one-hot gate."""
    layer = hydra_llama(**options).get_base_model().model.layers[0].self_attn.q_proj
    x, index = torch.randn(2, 7, 32), torch.randint(3, (2, 7))
    with hydralora.expert_gates(layer, torch.eye(3)[index]):
        y = layer(x)
    for expert in range(3):
        with hydralora.expert_gates(layer, torch.eye(3)[[expert, expert]]):
            torch.testing.assert_close(y[index == expert], layer(x)[index == expert])
    with hydralora.expert_gates(layer, index):
        torch.testing.assert_close(layer(x), y)
    with hydralora.expert_gates(layer, index[:, 0]):
        by_number = layer(x)
    with hydralora.expert_gates(layer, torch.eye(3)[index[:, 0]]):
        torch.testing.assert_close(by_number, layer(x))


def test_no_expert_leaves_the_shared_lora(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(**SPLIT)
    with torch.no_grad():
        alone = model(tokens, expert_gates=torch.zeros(2, 3)).logits
        torch.testing.assert_close(model(tokens, expert_gates=torch.tensor([-1, -1])).logits, alone)
        assert not torch.allclose(model(tokens, expert_gates=torch.tensor([0, 1])).logits, alone)


def test_numbers_of_no_expert_are_refused(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(**SPLIT)
    with pytest.raises(ValueError, match="from 0 to 2, or -1 for no expert, got 0 to 3"):
        model(tokens, expert_gates=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"integers \(2, 3\), which may be gates of 3 experts or experts of 3 tokens"):
        model(tokens[:, :3], expert_gates=torch.eye(3, dtype=torch.long)[:2])
    for unsigned in (torch.tensor([0, 2], dtype=torch.uint8), torch.tensor([True, False])):
        with pytest.raises(ValueError, match="floating point numbers or signed integers, got torch"):
            model(input_ids=tokens, expert_gates=unsigned)


def test_gates_of_tokens_are_recorded(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model, index = hydra_llama(**SPLIT), torch.randint(3, (2, 7))
    with torch.no_grad(), hydralora.record_gates(model) as gates:
        model(tokens, expert_gates=index)
    for layer in gates.values():
        assert torch.equal(layer, torch.eye(3)[index])


def test_another_thread_cannot_use_these_gates(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(router_input="given", shared_rank=2)
    expected = model(tokens, expert_gates=GATES).logits

    def elsewhere(call: Callable[[], Any]) -> str:
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="Another thread") as error:
            pool.submit(call).result()
        return str(error.value)

    with hydralora.expert_gates(model, GATES):
        assert "lock" in elsewhere(lambda: model(tokens))
        assert "lock" in elsewhere(lambda: model(tokens, expert_gates=GATES.flip(0)))
        with hydralora.expert_gates(model, GATES.flip(0)):
            pass
        assert torch.equal(model(tokens).logits, expected)
        copied = copy.deepcopy(model)
    with ThreadPoolExecutor(1) as pool:
        for each in (model, copied):
            assert torch.equal(
                pool.submit(lambda each=each: each(tokens, expert_gates=GATES).logits).result(), expected
            )


@pytest.mark.parametrize("gates", [[0, 1], np.array([0, 1]), torch.tensor([1j, 0])], ids=["list", "NumPy", "complex"])
def test_gates_that_are_no_tensor_of_numbers(hydra_llama: Any, tokens: torch.Tensor, gates: Any) -> None:
    with pytest.raises(ValueError, match="expert_gates as a tensor of floating point numbers or signed integers, got"):
        hydra_llama(router_input="given")(tokens, expert_gates=gates)


def test_only_active_adapters_limit_the_experts(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(router_input="given")
    model.add_adapter("five", dataclasses.replace(model.peft_config["default"], num_experts=5))
    index = torch.tensor([0, 4])
    with pytest.raises(ValueError, match="from 0 to 2, or -1 for no expert, got 0 to 4"):
        model(tokens, expert_gates=index)
    model.set_adapter("five")
    assert model(tokens, expert_gates=index).logits.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"shared_expert": True}, {"shared_rank": 2}, {"shared_a": False}])
@pytest.mark.parametrize("gates", [torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)], ids=["vectors", "indices"])
def test_an_empty_batch(options: dict[str, Any], gates: torch.Tensor) -> None:
    config = hydralora.HydraLoraConfig(r=2, target_modules=["0"], router_input="given", **options)
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(8, 4)), config)
    with hydralora.expert_gates(model, gates):
        model(torch.zeros(0, 5, 8)).sum().backward()
        assert model(torch.zeros(0, 8)).shape == (0, 4)
