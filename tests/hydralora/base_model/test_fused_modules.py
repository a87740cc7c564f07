"""Kernels in the place of modules: which are replaced, that the results stay, and that all comes back."""

from typing import Any

import torch
from torch import Tensor
from transformers.models.llama import modeling_llama

from hydralora.base_model.fused_modules import Kernels, fused_modules
from hydralora.methods import MethodConfig, adapt
from tests.hydralora.small import small_gemma, small_model

CALLS: list[str] = []


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    CALLS.append("norm")
    return weight * x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()


def silu_times(a: Tensor, b: Tensor) -> Tensor:
    CALLS.append("silu")
    return a * torch.sigmoid(a) * b


def rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    CALLS.append("rotary")

    def turn(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * cos[:, None] + torch.cat((-b, a), dim=-1) * sin[:, None]

    return turn(q), turn(k)


KERNELS = Kernels(rms_norm, silu_times, rotary)
TOKENS = torch.arange(12).view(2, 6)


def test_a_llama_uses_them_and_gives_the_same() -> None:
    model = small_model()
    before, original = model(TOKENS).logits, modeling_llama.apply_rotary_pos_emb
    with fused_modules(model, KERNELS) as counts:
        CALLS.clear()
        inside = model(TOKENS).logits
    assert counts == {"rms_norm": 5, "silu_times": 2, "rotary": 1}  # two layers, and the norm at the end
    assert sorted(CALLS) == ["norm"] * 5 + ["rotary"] * 2 + ["silu"] * 2
    torch.testing.assert_close(inside, before)
    CALLS.clear()
    torch.testing.assert_close(model(TOKENS).logits, before, rtol=0, atol=0)
    assert CALLS == []
    assert modeling_llama.apply_rotary_pos_emb is original
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_adapters_within_a_replaced_module_still_count() -> None:
    """Also those whose gates are yet to be given."""
    torch.manual_seed(0)
    model: Any = adapt(small_model(), "hydralora_sequence", MethodConfig(num_experts=2, target_modules="all-linear"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    gates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    before = model(TOKENS, expert_gates=gates).logits
    with fused_modules(model, KERNELS) as counts:
        assert counts["silu_times"] == 2
        torch.testing.assert_close(model(TOKENS, expert_gates=gates).logits, before)


def test_a_kernel_that_gives_something_else_is_not_used() -> None:
    wrong = Kernels(lambda x, weight, epsilon: 1.1 * rms_norm(x, weight, epsilon), lambda a, b: a * b, rotary)
    model = small_model()
    before = model(TOKENS).logits
    with fused_modules(model, wrong) as counts:
        torch.testing.assert_close(model(TOKENS).logits, before)
    assert counts == {"rms_norm": 0, "silu_times": 0, "rotary": 1}


def test_norms_and_activations_of_another_kind_are_left_alone() -> None:
    """Gemma's norms multiply by 1 + weight, and its gate is a GELU."""
    model = small_gemma()
    before = model(TOKENS).logits
    with fused_modules(model, KERNELS) as counts:
        torch.testing.assert_close(model(TOKENS).logits, before)
    assert counts["rms_norm"] == counts["silu_times"] == 0


def test_all_comes_back_after_an_error() -> None:
    model, original = small_model(), modeling_llama.apply_rotary_pos_emb
    try:
        with fused_modules(model, KERNELS):
            raise KeyError
    except KeyError:
        pass
    assert modeling_llama.apply_rotary_pos_emb is original
    assert not any("forward" in module.__dict__ for module in model.modules())
