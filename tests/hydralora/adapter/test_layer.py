"""The layer's mathematics against a reference in float64, and against PEFT's LoRA where both must agree."""

import math
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hydralora import HydraLoraConfig
from hydralora.adapter.linear import HydraLoraLinear
from tests import reference

VARIANTS = {
    "low rank": {},
    "hidden": {"router_input": "hidden"},
    "uniform": {"router_input": "uniform"},
    "one expert": {"num_experts": 1},
    "one expert and a shared one": {"num_experts": 1, "shared_expert": True},
    "shared expert": {"shared_expert": True},
    "A for each expert": {"shared_a": False},
    "A for each expert, hidden, shared": {"shared_a": False, "router_input": "hidden", "shared_expert": True},
    "ten experts, rslora": {"num_experts": 10, "use_rslora": True},
    "shared LoRA": {"shared_rank": 3},
    "shared LoRA, its own scaling": {"shared_rank": 6, "shared_alpha": 2, "router_input": "hidden"},
    "shared LoRA, uniform, rslora": {
        "shared_rank": 6,
        "shared_alpha": 2,
        "router_input": "uniform",
        "use_rslora": True,
    },
    "shared LoRA, one expert": {"shared_rank": 2, "num_experts": 1},
    "shared LoRA, A for each expert": {"shared_rank": 5, "shared_a": False},
}


def make_layer(base: nn.Module | None = None, **options: Any) -> HydraLoraLinear:
    base = nn.Linear(12, 10) if base is None else base
    config = HydraLoraConfig(**{"r": 4, "lora_alpha": 6, "init_weights": False, **options})
    return HydraLoraLinear(base.requires_grad_(False), "default", config.r, config.lora_alpha, config).eval()


def expected(layer: HydraLoraLinear, x: Tensor, gates: Tensor | None = None) -> Tensor:
    base, name = layer.get_base_layer(), "default"
    router = layer.hydralora_router[name].weight if name in layer.hydralora_router else None
    if gates is None and layer.router_input[name] == "uniform":
        experts = layer.num_experts[name]
        gates = torch.full((x[..., 0].numel(), experts), 1 / experts, dtype=torch.float64)
    s = layer.shared_rank[name]
    weight_a, weight_b = layer.hydralora_A[name].weight, layer.hydralora_B[name].weight
    rows, columns = len(weight_a) - s, weight_b.shape[1] - s
    flat = reference.hydralora(
        x.flatten(0, -2),
        base.weight.T if isinstance(base, Conv1D) else base.weight,
        base.bias,
        weight_a[:rows],
        weight_b[:, :columns],
        scaling=layer.scaling[name],
        r=layer.r[name],
        weight_router=router,
        router_input=layer.router_input[name],
        gates=gates,
        shared_expert=layer.shared_expert[name],
        shared_a=weight_a[rows:],
        shared_b=weight_b[:, columns:],
        shared_scaling=layer.shared_scaling[name],
    )
    return flat.view(*x.shape[:-1], -1)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12)], ids=["2-D", "3-D"])
@pytest.mark.parametrize("observed", [False, True], ids=["fused where it can be", "eager"])
def test_equals_the_reference(options: dict[str, Any], shape: tuple[int, ...], observed: bool) -> None:
    layer = make_layer(**options).double()
    if observed:
        layer.gate_observer = lambda name, gates: None
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(layer(x), expected(layer, x), rtol=1e-12, atol=1e-12)


def test_conv1d_of_gpt2() -> None:
    layer = make_layer(Conv1D(10, 12)).double()
    x = torch.randn(2, 3, 12, dtype=torch.float64)
    torch.testing.assert_close(layer(x), expected(layer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("observed", [False, True], ids=["fused where it can be", "eager"])
def test_gradients(options: dict[str, Any], observed: bool) -> None:
    layer = make_layer(nn.Linear(5, 4), **{"r": 2, **options}).double()
    if observed:
        layer.gate_observer = lambda name, gates: None
    parameters = {name: value.detach() for name, value in layer.named_parameters() if "hydralora" in name}
    x = torch.randn(3, 5, dtype=torch.float64)

    def forward(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    inputs = [x, *parameters.values()]
    assert torch.autograd.gradcheck(forward, [value.requires_grad_() for value in inputs])


def lora_twin(layer: HydraLoraLinear, weight_b: Tensor) -> LoraLinear:
    """PEFT's LoRA on the same base layer, with the same A and a given B."""
    r, scaling = layer.r["default"], layer.scaling["default"]
    lora = LoraLinear(layer.get_base_layer(), "default", LoraConfig(), r=r, lora_alpha=r * scaling).eval()
    lora.lora_A["default"].weight.data.copy_(layer.hydralora_A["default"].weight)
    lora.lora_B["default"].weight.data.copy_(weight_b)
    return lora


def test_one_expert_is_peft_lora_to_the_bit() -> None:
    layer = make_layer(num_experts=1, lora_alpha=8)  # scaling 2: rounding does not depend on where it is applied
    lora = lora_twin(layer, layer.hydralora_B["default"].weight)
    assert not layer.hydralora_router
    layer.gate_observer = lambda name, gates: None  # eager, as PEFT's
    x = torch.randn(4, 12)
    assert torch.equal(layer(x), lora(x))
    assert torch.equal(layer.get_delta_weight("default"), lora.get_delta_weight("default"))


@pytest.mark.parametrize("router_input", ["low_rank", "hidden"])
def test_equal_experts_are_peft_lora(router_input: str) -> None:
    layer = make_layer(router_input=router_input)
    one = torch.randn(10, 4)
    layer.hydralora_B["default"].weight.data.copy_(one.repeat(1, 3))
    x = torch.randn(4, 12)
    torch.testing.assert_close(layer(x), lora_twin(layer, one)(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("adapter_dtype", [None, torch.float32], ids=["same dtype", "float32 adapter"])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_zero_b_gives_the_base_layer_to_the_bit(
    options: dict[str, Any], dtype: torch.dtype, adapter_dtype: torch.dtype | None
) -> None:
    layer = make_layer(nn.Linear(12, 10).to(dtype), **{**options, "init_weights": True})
    if adapter_dtype is not None:
        for group in (layer.hydralora_A, layer.hydralora_B, layer.hydralora_router):
            group.to(adapter_dtype)
    x = torch.randn(2, 3, 12, dtype=dtype)
    y = layer(x)
    assert y.dtype == dtype
    assert torch.equal(y, layer.get_base_layer()(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_the_reference(dtype: torch.dtype) -> None:
    layer = make_layer(nn.Linear(12, 10).to(dtype))
    x = torch.randn(2, 3, 12, dtype=dtype)
    torch.testing.assert_close(layer(x).double(), expected(layer, x), rtol=0.02, atol=0.05)


def test_experts_leave_zero_apart_from_each_other() -> None:
    """With B = 0, the first gradient of each B_i is weighed by its gate: experts must not stay copies."""
    layer = make_layer(init_weights=True)
    layer(torch.randn(16, 12)).square().sum().backward()
    first, second, _ = layer.hydralora_B["default"].weight.grad.unflatten(1, (3, 4)).unbind(1)
    assert not torch.allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize("router_input", ["low_rank", "hidden"])
def test_one_dropout_mask_for_all_experts(router_input: str) -> None:
    """A reads the dropped input, once; the low-rank router reads A's output, the hidden one the layer's own input."""
    layer = make_layer(router_input=router_input, lora_dropout=0.5).train()
    x = torch.randn(6, 12)
    torch.manual_seed(5)
    y = layer(x)
    torch.manual_seed(5)
    dropped = nn.functional.dropout(x, 0.5)
    h = layer.hydralora_A["default"](dropped)
    z = h if router_input == "low_rank" else x
    gates = layer.hydralora_router["default"](z).softmax(-1)
    experts = layer.hydralora_B["default"].weight.unflatten(1, (3, 4))
    update = torch.einsum("tn,onr,tr->to", gates, experts, h)
    torch.testing.assert_close(y, layer.get_base_layer()(x) + layer.scaling["default"] * update)


def test_gates_and_their_observer() -> None:
    layer = make_layer()
    seen = []
    layer.gate_observer = lambda name, gates: seen.append((name, gates))
    x = torch.randn(2, 5, 12)
    layer(x)
    ((name, gates),) = seen
    assert name == "default"
    assert gates.shape == (2, 5, 3)
    logits = layer.hydralora_router["default"](layer.hydralora_A["default"](x))
    torch.testing.assert_close(gates, logits.softmax(-1))
    torch.testing.assert_close(layer.gates(x), gates)


@pytest.mark.parametrize("shared_expert", [False, True])
def test_static_gates_replace_the_router(shared_expert: bool) -> None:
    layer = make_layer(shared_expert=shared_expert).double()
    x = torch.randn(4, 12, dtype=torch.float64)
    live = layer(x)
    given = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    layer.fixed_gate_vectors["default"] = given
    layer.hydralora_router["default"].weight.data.fill_(torch.nan)  # must not be read
    blocks = layer.hydralora_B["default"].weight.unflatten(1, (-1, 4))
    gates = torch.cat([given, torch.ones(1, dtype=torch.float64)]) if shared_expert else given
    lora = lora_twin(layer, (blocks * gates[:, None]).sum(1)).double()
    torch.testing.assert_close(layer(x), lora(x))
    assert not torch.allclose(layer(x), live)
    assert "fixed_gates.default" not in layer.state_dict()
    torch.testing.assert_close(layer.get_delta_weight("default"), lora.get_delta_weight("default"))


@pytest.mark.parametrize("base", [nn.Linear(12, 10), Conv1D(10, 12)], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize(
    "options", [VARIANTS["one expert"], VARIANTS["one expert and a shared one"], VARIANTS["uniform"]]
)
@pytest.mark.parametrize("safe_merge", [False, True])
def test_fixed_gates_merge_and_unmerge(base: nn.Module, options: dict[str, Any], safe_merge: bool) -> None:
    layer = make_layer(base, **options).double()
    before = layer.weight.clone()
    x = torch.randn(4, 12, dtype=torch.float64)
    y = layer(x)
    layer.merge(safe_merge=safe_merge)
    torch.testing.assert_close(layer.get_base_layer()(x), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer(x), y, rtol=1e-12, atol=1e-12)
    layer.unmerge()
    torch.testing.assert_close(layer.weight, before, rtol=1e-14, atol=1e-14)


def test_half_precision_merges_with_one_rounding() -> None:
    layer = make_layer(nn.Linear(12, 10).bfloat16(), num_experts=1)
    exact = layer.weight.double() + layer.exact_delta_weight("default").double()
    layer.merge()
    assert torch.equal(layer.weight, exact.bfloat16())


def test_safe_merge_finds_broken_weights() -> None:
    layer = make_layer(num_experts=1)
    layer.hydralora_B["default"].weight.data[0, 0] = torch.inf
    before = layer.weight.clone()
    with pytest.raises(ValueError, match="NaNs detected"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.weight, before)
    assert not layer.merged


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "Expected a rank `r` of at least 1, got 0"),
        ({"num_experts": 0}, "Expected `num_experts` of at least 1, got 0"),
        ({"router_input": "x"}, "Expected `router_input` to be one of .*got 'x'"),
        ({"lora_dropout": 1.0}, "Expected `lora_dropout` from 0 to below 1, got 1.0"),
        ({"r": 2.5}, "Expected `r` to be a whole number, got 2.5"),
        ({"num_experts": True}, "Expected `num_experts` to be a whole number, got True"),
        ({"rank_pattern": {"q": "4"}}, r"Expected `rank_pattern\['q'\]` to be a whole number, got '4'"),
        ({"lora_alpha": math.nan}, "Expected `lora_alpha` to be a finite number, got nan"),
        ({"use_rslora": "false"}, "Expected `use_rslora` to be True or False, got 'false'"),
        ({"layers_pattern": "layers"}, "`layers_to_transform` must also be specified"),
        ({"target_modules": "q", "layers_to_transform": [0]}, "cannot be used when `target_modules` is a str"),
    ],
)
def test_config_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HydraLoraConfig(**options)


def test_scaling_of_the_shared_lora() -> None:
    """By default that of the experts, in each layer; its own alpha over its own rank where one is given."""
    assert make_layer(shared_rank=16).shared_scaling == make_layer().scaling == {"default": 1.5}
    own = make_layer(shared_rank=16, shared_alpha=8)
    assert (own.scaling["default"], own.shared_scaling["default"]) == (1.5, 0.5)
    root = make_layer(shared_rank=16, shared_alpha=8, use_rslora=True)
    assert (root.scaling["default"], root.shared_scaling["default"]) == (3.0, 2.0)


def test_split_with_one_expert_on_is_peft_lora_of_both_ranks() -> None:
    """For one-hot gates: A stacked, B side by side, one alpha / r. So a trained LoRA's rate is the split's too."""
    layer = make_layer(shared_rank=5, router_input="given")
    weight_a, weight_b = layer.hydralora_A["default"].weight, layer.hydralora_B["default"].weight
    lora = LoraLinear(layer.get_base_layer(), "default", LoraConfig(), r=9, lora_alpha=9 * 1.5).eval()
    lora.lora_A["default"].weight.data.copy_(weight_a)
    lora.lora_B["default"].weight.data.copy_(torch.cat((weight_b[:, 4:8], weight_b[:, 12:]), dim=1))
    x = torch.randn(2, 5, 12)
    for gates in (torch.eye(3)[[1, 1]], torch.tensor([1, 1]), torch.ones(2, 5, dtype=torch.int32)):
        layer.given_gates = gates
        torch.testing.assert_close(layer(x), lora(x))


BAD = {
    "below zero": ({"shared_rank": -1}, "`shared_rank` of at least 0, got -1"),
    "two parts that are always on": ({"shared_rank": 2, "shared_expert": True}, "Expected one part that is always on"),
    "alpha of nothing": ({"shared_alpha": 2}, "`shared_alpha` together with `shared_rank`"),
}


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_shared_lora_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HydraLoraConfig(**options)


def test_shared_lora_beside_experts_without_a_scale() -> None:
    with pytest.raises(ValueError, match="other than 0 beside a shared LoRA"):
        make_layer(shared_rank=2, lora_alpha=0)
