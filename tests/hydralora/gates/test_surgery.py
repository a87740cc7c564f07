"""Each edit of the experts against its stated effect, on gates and on outputs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM, MambaConfig, MambaForCausalLM

from hydralora import expert_gates
from hydralora.gates.fixed import set_fixed_gates
from hydralora.gates.recording import hydralora_layers, record_gates
from hydralora.gates.surgery import add_expert, drop_expert, merge_experts, upcycle
from hydralora.methods.parameters import count_parameters

MakeModel = Callable[..., PeftModel]
FIRST = "model.layers.0.self_attn.q_proj"  # its input does not depend on the adapters


def logits(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=tokens).logits


def gates_and_update(model: PeftModel, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Gates [batch, length, N] of the first layer, and what its experts add to the base layer's output."""
    layer = hydralora_layers(model)[FIRST]
    inputs: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    with record_gates(model) as gates, torch.no_grad():
        model(input_ids=tokens)
        update = layer(inputs[0]) - layer.base_layer(inputs[0])
    handle.remove()
    return gates[FIRST], update


def experts(model: PeftModel) -> Tensor:
    """[out, E, r] of the first layer."""
    layer = hydralora_layers(model)[FIRST]
    return layer.hydralora_B["default"].weight.detach().unflatten(1, (-1, layer.r["default"])).clone()


@pytest.mark.parametrize("router_input", ["low_rank", "hidden"])
def test_upcycled_lora_gives_the_same_outputs(
    tiny_llama: Callable[..., LlamaForCausalLM], tokens: Tensor, router_input: str
) -> None:
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        use_rslora=True,
        rank_pattern={"v_proj": 2},
        target_modules=["q_proj", "v_proj", "up_proj"],
        modules_to_save=["lm_head"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    lora = get_peft_model(tiny_llama(), config).eval()
    with torch.no_grad():
        lora.base_model.model.lm_head.modules_to_save["default"].weight.mul_(2)
    expected, size = logits(lora, tokens), count_parameters(lora)
    model = upcycle(lora, num_experts=3, router_input=router_input).eval()
    torch.testing.assert_close(logits(model, tokens), expected, rtol=1e-5, atol=2e-6)
    counts = count_parameters(model)
    assert (counts.a, counts.b, counts.other) == (size.a, 3 * size.b, size.other)


def test_upcycled_experts_part(tiny_llama: Callable[..., LlamaForCausalLM], tokens: Tensor) -> None:
    """They start as copies; the router weighs their gradients differently."""
    lora = get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model = upcycle(lora, num_experts=2)
    before = experts(model)
    assert torch.equal(before[:, 0], before[:, 1])
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    after = experts(model)
    assert not torch.allclose(after[:, 0], after[:, 1], atol=1e-6)


def test_upcycle_refuses_parts_it_would_lose(tiny_llama: Callable[..., LlamaForCausalLM]) -> None:
    lora = get_peft_model(tiny_llama(), LoraConfig(target_modules=["q_proj"], use_dora=True))
    with pytest.raises(ValueError, match="Expected a plain LoRA, got one with use_dora"):
        upcycle(lora, num_experts=2)


def test_upcycle_wants_a_lora(hydra_llama: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"a plain LoRA adapter 'default', got the adapters \['default'\]"):
        upcycle(hydra_llama(), num_experts=2)


def test_copied_expert(hydra_llama: MakeModel, tokens: Tensor) -> None:
    """g_j / (1 + g_1) for the others, 2 g_1 / (1 + g_1) for the pair."""
    model = hydra_llama()
    gates, _ = gates_and_update(model, tokens)
    before = experts(model)
    add_expert(model, copy_of=1)
    new_gates, _ = gates_and_update(model, tokens)
    shared = 1 + gates[..., 1:2]
    torch.testing.assert_close(new_gates[..., :3], gates / shared)
    torch.testing.assert_close(new_gates[..., 1:2] + new_gates[..., 3:], 2 * gates[..., 1:2] / shared)
    assert torch.equal(experts(model), before[:, [0, 1, 2, 1]])


def test_new_expert_shrinks_the_update(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama()
    gates, update = gates_and_update(model, tokens)
    add_expert(model)
    new_gates, new_update = gates_and_update(model, tokens)
    rest = 1 - new_gates[..., 3:]
    torch.testing.assert_close(new_gates[..., :3], gates * rest)
    torch.testing.assert_close(new_update, update * rest, rtol=1e-4, atol=1e-6)
    assert experts(model)[:, 3].abs().max() == 0


def test_dropped_expert_leaves_a_softmax_of_the_others(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama(shared_expert=True)
    gates, _ = gates_and_update(model, tokens)
    before = experts(model)
    drop_expert(model, 1)
    new_gates, _ = gates_and_update(model, tokens)
    torch.testing.assert_close(new_gates, gates[..., [0, 2]] / (1 - gates[..., 1:2]))
    assert torch.equal(experts(model), before[:, [0, 2, 3]])  # the last one is always on, and stays last


def test_adding_and_dropping_is_nothing(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama(shared_expert=True)
    expected = logits(model, tokens)
    add_expert(model)
    assert not torch.allclose(logits(model, tokens), expected, atol=1e-4)
    drop_expert(model, 3)
    assert torch.equal(logits(model, tokens), expected)
    assert model.peft_config["default"].num_experts == 3


def test_merged_experts_have_the_mean_logit(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama()
    gates, _ = gates_and_update(model, tokens)
    before = experts(model)
    merge_experts(model, (2, 0), weight=0.75)
    new_gates, _ = gates_and_update(model, tokens)
    logs = gates.log()  # logits, up to a constant of each token
    merged = 0.75 * logs[..., 2] + 0.25 * logs[..., 0]
    torch.testing.assert_close(new_gates, torch.stack((logs[..., 1], merged), -1).softmax(-1))
    torch.testing.assert_close(experts(model)[:, 1], 0.75 * before[:, 2] + 0.25 * before[:, 0])


def test_merging_the_last_two_is_the_lora_of_fixed_gates(hydra_llama: MakeModel, tokens: Tensor) -> None:
    fixed = hydra_llama(num_experts=2, shared_expert=True)
    set_fixed_gates(fixed, torch.tensor([0.3, 0.7]))
    model = hydra_llama(num_experts=2, shared_expert=True)
    merge_experts(model, (0, 1), weight=0.3)
    torch.testing.assert_close(logits(model, tokens), logits(fixed, tokens), rtol=1e-5, atol=2e-6)
    assert count_parameters(model).router == 0


def test_gates_from_outside(hydra_llama: MakeModel, tokens: Tensor) -> None:
    """Without a router, a dropped expert is one entry less; the others do not change."""
    model = hydra_llama(router_input="given")
    with expert_gates(model, torch.tensor([[0.2, 0.0, 0.8], [1.0, 0.0, 0.0]])):
        expected = logits(model, tokens)
    drop_expert(model, 1)
    with expert_gates(model, torch.tensor([[0.2, 0.8], [1.0, 0.0]])):
        torch.testing.assert_close(logits(model, tokens), expected, rtol=1e-5, atol=2e-6)


def test_edited_adapter_saves_loads_and_trains(
    hydra_llama: MakeModel, tiny_llama: Callable[..., LlamaForCausalLM], tokens: Tensor, tmp_path: Path
) -> None:
    model = hydra_llama()
    add_expert(model, copy_of=0)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    model(input_ids=tokens, labels=tokens).loss.backward()
    layer = hydralora_layers(model)[FIRST]
    assert layer.hydralora_B["default"].weight.grad.abs().max() > 0
    assert layer.hydralora_router["default"].weight.grad.shape == (4, 4)


def test_edits_that_are_not_defined(hydra_llama: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"experts from 0 to 2 of at least two, got \[3\] of 3"):
        drop_expert(hydra_llama(), 3)
    with pytest.raises(ValueError, match="at least two"):
        drop_expert(hydra_llama(num_experts=1), 0)
    with pytest.raises(ValueError, match="two different experts to merge, got 1 twice"):
        merge_experts(hydra_llama(), (1, 1))
    with pytest.raises(ValueError, match="which has no router: export it"):
        add_expert(hydra_llama(num_experts=1))
    with pytest.raises(ValueError, match="share one A"):
        add_expert(hydra_llama(shared_a=False))


def test_surgery_leaves_the_shared_lora_alone(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama(shared_rank=5)
    expected = logits(model, tokens)
    add_expert(model)
    drop_expert(model, 3)
    assert torch.equal(logits(model, tokens), expected)
    two, fixed = hydra_llama(num_experts=2, shared_rank=5), hydra_llama(num_experts=2, shared_rank=5)
    merge_experts(two, (0, 1), weight=0.3)
    set_fixed_gates(fixed, torch.tensor([0.3, 0.7]))
    torch.testing.assert_close(logits(two, tokens), logits(fixed, tokens), rtol=1e-5, atol=2e-6)


def test_an_upcycled_model_stays_in_its_mode(tiny_llama: Callable[..., LlamaForCausalLM], tokens: Tensor) -> None:
    config = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, lora_dropout=0.5)
    lora = get_peft_model(tiny_llama(), config).eval()
    expected = logits(lora, tokens)
    torch.testing.assert_close(logits(upcycle(lora, num_experts=2), tokens), expected, rtol=1e-5, atol=2e-6)
    training = get_peft_model(tiny_llama(), config)
    assert hydralora_layers(upcycle(training, num_experts=2))[FIRST].hydralora_dropout["default"].training


def test_upcycle_refuses_layers_that_experts_cannot_be_on(tokens: Tensor) -> None:
    """Before anything changes: such a layer is left alone, so its weights would have no place."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4, "vocab_size": 64}
    base = MambaForCausalLM(MambaConfig(**sizes)).eval()
    lora = get_peft_model(base, LoraConfig(target_modules=["in_proj", "dt_proj"], init_lora_weights=False)).eval()
    expected = logits(lora, tokens)
    with pytest.raises(ValueError, match=r"experts would have no effect \(backbone.layers.0.mixer.dt_proj: MambaMixer"):
        upcycle(lora, num_experts=2)
    assert torch.equal(logits(lora, tokens), expected)


def test_fixed_gates_of_another_number_of_experts_go_with_a_warning(hydra_llama: MakeModel, tokens: Tensor) -> None:
    model = hydra_llama()
    set_fixed_gates(model, 0)
    with pytest.warns(
        UserWarning, match="fixed gates of adapter 'default' are removed, because they were for 3 experts"
    ):
        drop_expert(model, 2)
    assert hydralora_layers(model)[FIRST].fixed_gates("default") is None
