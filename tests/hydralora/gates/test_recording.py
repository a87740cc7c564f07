"""Recorded gates against a recomputation, statistics against means over a list of tokens, losses by hand."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from hydralora import expert_gates
from hydralora.gates.losses import balance_loss, cluster_loss
from hydralora.gates.recording import document_statistics, hydralora_layers, record_gates
from hydralora.gates.statistics import GateStatistics

MakeModel = Callable[..., PeftModel]


@pytest.mark.parametrize("router_input", ["low_rank", "hidden"])
def test_recorded_gates_are_those_of_each_layer(hydra_llama: MakeModel, tokens: Tensor, router_input: str) -> None:
    model = hydra_llama(router_input=router_input)
    inputs: dict[str, Tensor] = {}
    for name, layer in hydralora_layers(model).items():
        layer.register_forward_pre_hook(lambda _module, args, name=name: inputs.__setitem__(name, args[0]))
    with torch.no_grad():
        without = model(input_ids=tokens).logits
        with record_gates(model) as gates:
            recorded = model(input_ids=tokens).logits
    torch.testing.assert_close(recorded, without)
    assert list(gates) == list(hydralora_layers(model))
    for name, layer in hydralora_layers(model).items():
        z = inputs[name] if router_input == "hidden" else layer.hydralora_A["default"](inputs[name])
        expected = torch.softmax(layer.hydralora_router["default"](z), -1)
        torch.testing.assert_close(gates[name], expected)
        assert gates[name].shape == (2, 7, 3)


def test_recording_ends(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama()
    with record_gates(model) as gates:
        model(input_ids=tokens)
    kept = dict(gates)
    model(input_ids=tokens[:, :3])
    assert all(gates[name] is tensor for name, tensor in kept.items())
    assert all(layer.gate_observer is None for layer in hydralora_layers(model).values())


def test_recording_inside_of_recording(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama()
    with record_gates(model) as outer:
        with record_gates(model) as inner:
            model(input_ids=tokens[:, :3])
        model(input_ids=tokens)
    assert {gates.shape[1] for gates in inner.values()} == {3}
    assert {gates.shape[1] for gates in outer.values()} == {7}


def test_gates_from_outside_are_recorded(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama(router_input="given")
    given = torch.tensor([[0.2, 0.8, 0.0], [0.0, 0.5, 0.5]])
    with record_gates(model) as gates, expert_gates(model, given):
        model(input_ids=tokens)
    assert all(torch.equal(layer, given[:, None].expand(2, 7, 3)) for layer in gates.values())


def test_one_expert_has_no_gates(hydra_llama: MakeModel) -> None:
    with pytest.raises(ValueError, match="'default' with a single expert"), record_gates(hydra_llama(num_experts=1)):
        pass


def test_gradient_checkpointing(hydra_llama: MakeModel, tokens: Tensor) -> None:
    """Within the context, backward runs the layers again and finds them as they were: the same gradients."""
    gradients = []
    for checkpointing in (False, True):
        model = hydra_llama().train()
        if checkpointing:
            model.enable_input_require_grads()
            # Renamed in transformers 5.23.
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        with record_gates(model) as gates:
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
            (loss + balance_loss(gates)).backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


def random_gates(*shape: int) -> dict[str, Tensor]:
    return {name: torch.rand(*shape).softmax(-1) for name in ("one", "two", "three")}


def test_statistics_equal_means_over_tokens() -> None:
    """Three batches of different lengths, padding, and groups; against a list of all tokens."""
    statistics = GateStatistics(num_groups=2)
    tokens: dict[tuple[str, int], list[Tensor]] = {}
    for length in (4, 6, 5):
        gates = random_gates(3, length, 4)
        mask = (torch.rand(3, length) > 0.3).long()
        groups = torch.randint(0, 2, (3,))
        statistics.update(gates, mask, groups)
        for name, layer in gates.items():
            for i in range(3):
                tokens.setdefault((name, int(groups[i])), []).extend(layer[i][mask[i] == 1])
    for m, name in enumerate(("one", "two", "three")):
        for g in range(2):
            rows = torch.stack(tokens[name, g]).double()
            torch.testing.assert_close(statistics.mean()[m, g], rows.mean(0), rtol=1e-6, atol=1e-7)
            entropies = -(rows * rows.log()).sum(-1) / math.log(4)
            torch.testing.assert_close(statistics.entropy()[m, g], entropies.mean(), rtol=1e-6, atol=1e-7)
            wins = torch.bincount(rows.argmax(-1), minlength=4) / len(rows)
            torch.testing.assert_close(statistics.usage()[m, g], wins.double())
            assert statistics.num_tokens[g] == len(rows)
    assert statistics.modules == ("one", "two", "three")


def test_statistics_by_hand() -> None:
    """One expert alone has entropy 0, equal gates have 1; a group of tokens inside of sequences."""
    gates = {"layer": torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]])}
    statistics = GateStatistics(num_groups=2)
    statistics.update(gates, mask=torch.tensor([[1, 1, 0]]), groups=torch.tensor([[0, 1, 1]]))
    assert statistics.mean().tolist() == [[[1.0, 0.0], [0.5, 0.5]]]
    assert statistics.entropy()[0].tolist() == pytest.approx([0.0, 1.0])
    assert statistics.num_tokens.tolist() == [1, 1]


def test_statistics_refuse_what_does_not_fit() -> None:
    statistics = GateStatistics()
    with pytest.raises(ValueError, match="a mask for the 12 tokens that have gates, got one for 8"):
        statistics.update(random_gates(3, 4, 2), torch.ones(2, 4))
    statistics.update(random_gates(3, 4, 2))
    with pytest.raises(ValueError, match=r"the 3 layers of the first update, got \['other'\]"):
        statistics.update({"other": torch.rand(3, 4, 2)})


def test_document_statistics(hydra_llama: MakeModel, tokens: Tensor) -> None:
    """A padded document has the means it has alone; dropout is off meanwhile."""
    model = hydra_llama(lora_dropout=0.5).train()
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    batch: dict[str, Any] = {"input_ids": tokens, "attention_mask": mask, "labels": tokens, "document_id": ["a", "b"]}
    statistics, gates = document_statistics(model, batch)
    assert model.training
    assert statistics.num_tokens.tolist() == [7, 4]
    assert len(gates) == len(statistics.modules) == 14
    alone, _ = document_statistics(model, {"input_ids": tokens[1:, :4]})
    torch.testing.assert_close(alone.mean()[:, 0], statistics.mean()[:, 1], rtol=1e-5, atol=1e-6)


def test_balance_loss_by_hand() -> None:
    """Each layer apart: two layers that each use one expert are as unbalanced as can be, however they look pooled."""
    one_hot = torch.eye(2)
    collapsed = {"a": one_hot[0].expand(1, 3, 2), "b": one_hot[1].expand(1, 3, 2)}
    assert balance_loss(collapsed) == 1
    assert balance_loss({"a": torch.full((2, 3, 4), 0.25)}) == 0
    # Mean gates (0.75, 0.25) over the two tokens that are no padding: 2 (0.5625 + 0.0625) - 1.
    gates = {"a": torch.tensor([[[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]])}
    assert balance_loss(gates, torch.tensor([[1, 1, 0]])) == 0.25


def test_cluster_loss_by_hand() -> None:
    gates = {"a": torch.tensor([[[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]])}
    mask = torch.tensor([[1, 1, 0]])
    expected = -(math.log(0.5) + math.log(0.75)) / 2
    assert cluster_loss(gates, torch.tensor([1]), mask).item() == pytest.approx(expected, rel=1e-6)
    soft = -(math.log(0.5) + 0.5 * math.log(0.25) + 0.5 * math.log(0.75)) / 2
    assert cluster_loss(gates, torch.tensor([[0.5, 0.5]]), mask).item() == pytest.approx(soft, rel=1e-6)
    with pytest.raises(ValueError, match="clusters below the 2 experts, got 2"):
        cluster_loss(gates, torch.tensor([2]))
    with pytest.raises(ValueError, match="soft assignments to 2 experts, got 3"):
        cluster_loss(gates, torch.tensor([[0.2, 0.3, 0.5]]))


@pytest.mark.parametrize("loss", ["balance", "cluster"])
def test_losses_train_routers(hydra_llama: MakeModel, tokens: Tensor, loss: str) -> None:
    """Gradients reach every router, and a few steps bring the loss down."""
    model = hydra_llama().train()
    routers = [layer.hydralora_router["default"].weight for layer in hydralora_layers(model).values()]
    with torch.no_grad():
        for weight in routers:
            weight.mul_(5)
    optimizer = torch.optim.Adam(routers, lr=0.05)
    values = []
    for _ in range(30):
        with record_gates(model) as gates:
            model(input_ids=tokens)
        value = balance_loss(gates) if loss == "balance" else cluster_loss(gates, torch.tensor([2, 0]))
        optimizer.zero_grad()
        value.backward()
        assert all(weight.grad.abs().max() > 0 for weight in routers)
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.6 * values[0]


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_reentrant_checkpointing_gives_gates_no_gradient(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama(shared_rank=2).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    refused = pytest.raises(ValueError, match=r"reentrant.*would change no router.*'use_reentrant': False")
    with refused, record_gates(model):
        model(input_ids=tokens, use_cache=False)
    with record_gates(model) as gates, torch.no_grad():
        model.eval()(input_ids=tokens)
    assert gates


@pytest.mark.parametrize("options", [{}, {"shared_rank": 2, "shared_alpha": 5.0}, {"shared_expert": True}], ids=str)
def test_losses_train_the_router_alone(hydra_llama: MakeModel, tokens: Tensor, options: dict[str, Any]) -> None:
    """Auxiliary losses see the experts' gates, not the part that is always on; descending them works."""
    model = hydra_llama(target_modules=["q_proj", "down_proj"], **options)
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=3.0)
    for loss_of in (balance_loss, lambda gates, mask: cluster_loss(gates, torch.tensor([0, 2]), mask)):
        values = []
        for _ in range(4):
            with record_gates(model) as gates:
                model(input_ids=tokens, attention_mask=mask)
            loss = loss_of(gates, mask)
            optimizer.zero_grad()
            loss.backward()
            changed = {name.split(".")[-3] for name, p in model.named_parameters() if p.grad is not None}
            assert changed <= {"hydralora_router", "hydralora_A", "hydralora_B"}
            last = "model.layers.1.mlp.down_proj"
            b = hydralora_layers(model)[last].hydralora_B["default"].weight
            assert b.grad is None or not b.grad.any()  # the last layer's update reaches no gate
            optimizer.step()
            values.append(float(loss.detach()))
        assert values[-1] < values[0]
        assert all(layer.shape == (2, 7, 3) for layer in gates.values())


def test_recordings_of_two_active_adapters(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama()
    model.add_adapter("other", model.peft_config["default"])
    model.base_model.set_adapter(["default", "other"])
    with record_gates(model) as gates, record_gates(model, "other") as of_other:
        model(input_ids=tokens)
        copied = copy.deepcopy(model)
    assert list(gates) == list(of_other) == list(hydralora_layers(model))
    assert not any(torch.equal(gates[name], of_other[name]) for name in gates)
    before = dict(gates)
    copied(input_ids=tokens[:, :2])
    assert all(gates[name] is before[name] for name in gates)  # a copy records nothing


def test_masks_of_packed_rows_count_each_token_once(hydra_llama: MakeModel, tokens: Tensor) -> None:
    """Some trainers number the documents of a row in the mask."""
    numbered = torch.tensor([[1, 1, 1, 2, 2, 2, 2], [1, 1, 2, 2, 2, 3, 0]])
    model = hydra_llama()
    with record_gates(model) as gates, torch.no_grad():
        model(input_ids=tokens)
    assert torch.equal(balance_loss(gates, numbered), balance_loss(gates, numbered > 0))
    means = []
    for mask in (numbered, numbered > 0):
        statistics = GateStatistics()
        statistics.update(gates, mask)
        means.append(statistics.mean())
    assert torch.equal(*means)


def test_measuring_leaves_each_module_in_its_mode(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama().train()
    frozen = model.get_submodule("base_model.model.model.layers.0.input_layernorm").eval()
    document_statistics(model, {"input_ids": tokens})
    assert model.training
    assert not frozen.training
    assert hydralora_layers(model)["model.layers.0.self_attn.q_proj"].training
