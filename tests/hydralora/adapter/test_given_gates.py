"""Gates given from outside, one vector for each sequence."""

from typing import Any

import pytest
import torch

import hydralora
from hydralora.adapter.layer import HydraLoraLayer

GATES = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])


def set_static(model: torch.nn.Module, gates: torch.Tensor) -> None:
    for layer in model.modules():
        if isinstance(layer, HydraLoraLayer):
            layer.static_gates["default"] = gates


def test_each_row_is_the_model_with_its_gates(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(router_input="sequence", shared_expert=True)
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
    model = hydra_llama(router_input="sequence", shared_expert=True)
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
    model = hydra_llama(router_input="sequence", lora_alpha=64)
    options = {"max_new_tokens": 4, "num_beams": num_beams, "do_sample": False}
    with hydralora.expert_gates(model, GATES):
        both = model.generate(input_ids=tokens, **options)
    for row in range(2):
        with hydralora.expert_gates(model, GATES[row : row + 1]):
            assert torch.equal(both[row : row + 1], model.generate(input_ids=tokens[row : row + 1], **options))


# Its new name is not in transformers 5.17 yet.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("router_input", ["sequence", "low_rank"])
def test_gradient_checkpointing(hydra_llama: Any, tokens: torch.Tensor, router_input: str, use_reentrant: bool) -> None:
    """Backward runs the layers again when the forward pass and its gates are over."""

    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        model = hydra_llama(router_input=router_input).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": use_reentrant})
        model(tokens, labels=tokens, expert_gates=GATES).loss.backward()
        return [p.grad for p in model.parameters() if p.requires_grad]

    torch.testing.assert_close(gradients(True), gradients(False))


def test_mixed_batch(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(router_input="sequence")
    mixed = model(tokens, adapter_names=["__base__", "default"], expert_gates=GATES).logits
    torch.testing.assert_close(mixed[1:], model(tokens[1:], expert_gates=GATES[1:]).logits)


def test_missing_and_wrong_gates(hydra_llama: Any, tokens: torch.Tensor) -> None:
    model = hydra_llama(router_input="sequence")
    with pytest.raises(ValueError, match=r"needs gates: call the model with expert_gates=\[batch, 3\]"):
        model(tokens)
    with pytest.raises(
        ValueError, match=r"Expected expert_gates \[batch, 3\] for an input of shape \(2, 7\), got \(2, 4\)"
    ):
        model(tokens, expert_gates=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"got \(3, 3\)"):
        model(tokens, expert_gates=torch.ones(3, 3))
    assert all(layer.sequence_gates is None for layer in model.modules() if isinstance(layer, HydraLoraLayer))
