"""Layers that an adapter cannot act on are left alone, and said so; everything that is adapted learns."""

from typing import Any

import pytest
import torch
import transformers
from peft import get_peft_model
from torch import Tensor, nn

from hydralora import HydraLoraConfig
from hydralora.adapter.unfit_layers import fused_experts, unfit_layers, weights_read_by
from hydralora.methods import MethodConfig, adapt, get_method, target_shapes

LLAMA = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def mamba() -> Any:
    torch.manual_seed(0)
    return transformers.MambaForCausalLM(
        transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4)
    )


def mixtral() -> Any:
    torch.manual_seed(0)
    sizes = {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**LLAMA, **sizes))


def config(**options: Any) -> HydraLoraConfig:
    return HydraLoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options})


class Reader(nn.Module):
    """One layer is called, one is read, of one only facts are read."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.asked = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.read.weight.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.called(x.to(self.asked.weight.dtype))
        if isinstance(self.asked.weight, Tensor):
            x = self.asked(x)
        return x @ self.read.weight.T


def test_which_weights_are_read() -> None:
    assert weights_read_by(Reader) == {"read"}
    assert list(unfit_layers(nn.Sequential(Reader()))) == ["0.read"]
    assert not unfit_layers(transformers.BloomModel(transformers.BloomConfig(vocab_size=8, hidden_size=8, n_head=2)))


def test_mamba_learns_wherever_it_is_adapted(tokens: Tensor) -> None:
    with pytest.warns(UserWarning, match=r"Left alone.*dt_proj \(MambaMixer reads its weight instead of calling it\)"):
        model = get_peft_model(mamba(), config()).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    b = {name: p for name, p in model.named_parameters() if "hydralora_B" in name}
    assert b
    assert all(p.abs().sum() > 0 for p in b.values())
    assert not any("dt_proj" in name or "out_proj" in name for name in b)


def test_nothing_left_to_adapt() -> None:
    base = mamba()
    with pytest.raises(ValueError, match=r"Expected target_modules that an adapter can act on, got .*dt_proj"):
        get_peft_model(base, config(target_modules=["dt_proj"]))
    assert not any("hydralora" in name for name, _ in base.named_modules())


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning")
def test_a_router_that_is_no_linear_layer(tokens: Tensor) -> None:
    sizes = {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 2}
    text = transformers.Llama4TextConfig(**LLAMA, **sizes, interleave_moe_layer_step=1, pad_token_id=0)
    with pytest.warns(UserWarning, match="the forward pass of Llama4Router returns no output of a linear layer"):
        model = get_peft_model(transformers.Llama4ForCausalLM(text), config())
    model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()


def test_attention_of_pytorch() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
    options = {"task_type": None, "target_modules": ["out_proj", "linear1", "linear2"], "init_weights": False}
    with pytest.warns(UserWarning, match="self_attn.out_proj"):
        model = get_peft_model(nn.TransformerEncoder(layer, 2), config(**options))
    x = torch.randn(2, 5, 16)
    training = model.train()(x)
    (training * torch.randn_like(x)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    with torch.no_grad():  # where PyTorch would take its fast path
        torch.testing.assert_close(model.eval()(x), training.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning")
def test_experts_that_are_left_out_are_named() -> None:
    assert len(fused_experts(mixtral())) == 4
    with pytest.warns(UserWarning, match="this mixture are not adapted: 4 parameters such as .*gate_up_proj"):
        get_peft_model(mixtral(), config())
    with pytest.warns(UserWarning, match="names of target_modules: up_proj"):
        get_peft_model(mixtral(), config(target_modules=["q_proj", "up_proj"]))


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning", "ignore:Left alone:UserWarning")
@pytest.mark.parametrize("make", [mixtral, mamba])
def test_every_method_adapts_the_same_layers(make: Any) -> None:
    settings = MethodConfig(target_modules="all-linear", total_steps=100)

    def shapes(name: str) -> list[Any]:
        base = make()
        return list(target_shapes(get_method(name).config(base, settings), base))

    expected = shapes("hydralora")
    assert expected
    for name in ("lora_r8", "without_hydra", "lora_moe", "adalora"):
        assert shapes(name) == expected


@pytest.mark.filterwarnings("ignore:The experts of this mixture:UserWarning")
@pytest.mark.parametrize("name", ["hydralora", "lora_r8", "lora_matched"])
def test_sizes_on_a_mixture_of_experts(name: str) -> None:
    settings = MethodConfig(target_modules="all-linear", match_parameters=9000)
    counted = sum(p.numel() for p in adapt(mixtral(), name, settings).parameters() if p.requires_grad)
    assert get_method(name).parameters(mixtral(), settings).total == counted
    if name == "lora_matched":
        assert counted == pytest.approx(9000, rel=0.1)


def test_no_closed_form_for_adapted_parameters() -> None:
    from peft import LoraConfig

    from hydralora.methods import expected_parameters

    for options in ({"target_modules": "all-linear"}, {"target_modules": [], "target_parameters": ["gate_up_proj"]}):
        with pytest.raises(ValueError, match=r"parameters of fused experts too.*Name the layers"):
            expected_parameters(LoraConfig(**options), mixtral())
