"""Base layers beyond nn.Linear: quantised ones through PEFT's own dispatch; and torch.compile over the layer."""

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from hydralora import HydraLoraConfig, expert_gates
from hydralora.adapter.linear import HydraLoraLinear


class FakeGptqLinear(nn.Module):
    """What a GPTQ layer shows to others: sizes, integer weights, no float `weight`."""

    def __init__(self, infeatures: int, outfeatures: int) -> None:
        super().__init__()
        self.infeatures, self.outfeatures = infeatures, outfeatures
        self.register_buffer("qweight", torch.randint(-8, 8, (outfeatures, infeatures), dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.qweight.to(x.dtype) / 8).T


class Net(nn.Module):
    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def adapt(linear: nn.Module, **options: Any) -> nn.Module:
    return get_peft_model(Net(linear), HydraLoraConfig(target_modules=["linear"], **options))


def test_gptq_style_layer() -> None:
    linear = FakeGptqLinear(16, 8)
    x = torch.randn(2, 3, 16)
    assert torch.equal(adapt(linear)(x), linear(x))
    model = adapt(linear, init_weights=False)
    y = model(x)
    assert not torch.allclose(y, linear(x))
    y.sum().backward()
    assert model.base_model.linear.hydralora_B["default"].weight.grad is not None


@pytest.mark.parametrize("kind", ["Linear8bitLt", "Linear4bit"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_experts": 1}, {"shared_rank": 4}, {"shared_rank": 4, "router_input": "given"}],
    ids=["N=3", "N=1", "split", "split, given"],
)
def test_bitsandbytes(kind: str, options: dict[str, Any]) -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    linear = getattr(bnb.nn, kind)(
        64, 32, bias=False, **({"has_fp16_weights": False} if kind == "Linear8bitLt" else {})
    )
    linear = linear.to("cpu")  # quantises
    x = torch.randn(2, 3, 64, dtype=torch.bfloat16)
    model = adapt(linear, init_weights=False, **options)
    layer = model.base_model.linear
    assert layer.quantization_backend.backend_name == f"bnb {kind[6]}bit"
    gates = torch.tensor([2, -1])
    with expert_gates(model, gates):
        y = model(x)
        update = layer._update(x, "default")
    assert y.shape == (2, 3, 32)
    y.float().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with model.disable_adapter():
        base = model(x)
    torch.testing.assert_close(y.float(), base.float() + update.float(), rtol=0.02, atol=0.02)
    if "num_experts" in options and kind == "Linear8bitLt":  # merging 4-bit weights on CPU is wrong in PEFT's LoRA too
        model.merge_adapter()
        torch.testing.assert_close(model(x).float(), y.float(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"router_input": "hidden"},
        {"num_experts": 1},
        {"shared_expert": True},
        {"shared_a": False},
        {"lora_dropout": 0.1},
        {"router_input": "uniform"},
    ],
)
def test_compiles_without_graph_breaks(options: dict[str, Any]) -> None:
    config = HydraLoraConfig(r=4, init_weights=False, **options)
    base = nn.Linear(12, 10).requires_grad_(False)
    layer = HydraLoraLinear(base, "default", config.r, config.lora_alpha, config)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 12)
    torch.manual_seed(0)
    y = layer(x)
    y.square().sum().backward()
    gradients = [p.grad.clone() for p in layer.parameters() if p.requires_grad]
    layer.zero_grad()
    torch.manual_seed(0)
    z = compiled(x)
    z.square().sum().backward()
    if "lora_dropout" in options:
        assert z.shape == y.shape  # masks differ between compiled and eager
        return
    torch.testing.assert_close(z, y)
    torch.testing.assert_close([p.grad for p in layer.parameters() if p.requires_grad], gradients)
