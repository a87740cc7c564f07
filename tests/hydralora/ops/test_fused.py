"""The mathematics against loops over tokens and experts; the fused function against autograd through the eager one."""

import itertools
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hydralora.ops import can_fuse, gate_and_scale, hydra_linear, router_gates, with_shared_expert
from hydralora.ops.eager import one_hot_gates

IN, OUT = 12, 9


@dataclass
class Layer:
    """Weights of one layer: everything `hydra_linear` takes besides x."""

    base_weight: Tensor
    base_bias: Tensor | None
    weight_a: Tensor
    weight_b: Tensor
    gating: Tensor | None
    scaling: float
    router_input: str
    shared_rank: int = 0
    shared_scaling: float = 0.75

    @property
    def rank(self) -> int:
        """Of an expert."""
        return self.weight_a.shape[0] - self.shared_rank

    @property
    def blocks(self) -> int:
        return (self.weight_b.shape[1] - self.shared_rank) // self.rank

    def parameters(self) -> list[Tensor]:
        return [p for p in (self.weight_a, self.weight_b, self.gating) if p is not None and p.requires_grad]

    def fused(self, x: Tensor) -> Tensor:
        adapter = (self.weight_a, self.weight_b, self.gating)
        shared = (self.shared_rank, self.shared_scaling)
        return hydra_linear(x, self.base_weight, self.base_bias, *adapter, self.scaling, self.router_input, *shared)

    def eager(self, x: Tensor) -> Tensor:
        low = F.linear(x, self.weight_a)
        h = low[..., : self.rank]
        gates, blocks = None, self.blocks
        if self.gating is not None and self.router_input == "given":
            given = self.gating
            given = given if given.is_floating_point() else one_hot_gates(given, blocks)
            gates = given[:, None].to(h.dtype)  # [G, 1, N] beside x [G, length, in]
            gates = gates if gates.shape[-1] == blocks else with_shared_expert(gates)
        elif self.gating is not None:
            gates = router_gates(x if self.router_input == "hidden" else h, self.gating)
            gates = gates if gates.shape[-1] == blocks else with_shared_expert(gates)
        elif blocks > 1:
            gates = h.new_ones(blocks)
        result = F.linear(x, self.base_weight, self.base_bias)
        inner = gate_and_scale(low, gates, self.rank, self.scaling, self.shared_rank, self.shared_scaling)
        return (result + F.linear(inner, self.weight_b)).to(result.dtype)

    def slow(self, x: Tensor) -> Tensor:
        """Token by token, expert by expert."""
        rank = self.rank
        outputs = []
        for position, token in enumerate(x.reshape(-1, IN)):
            h = self.weight_a[:rank] @ token
            y = self.base_weight @ token if self.base_bias is None else self.base_weight @ token + self.base_bias
            gates: list[Tensor] = []
            if self.gating is not None and self.router_input == "given":
                given = self.gating[position // x.shape[1]]
                is_index = not given.is_floating_point()
                gates = [(given == i).to(x.dtype) for i in range(self.blocks)] if is_index else list(given)
            elif self.gating is not None:
                powers = (self.gating @ (token if self.router_input == "hidden" else h)).exp()
                gates = list(powers / powers.sum())
            for i in range(self.blocks):
                gate = gates[i] if i < len(gates) else torch.ones((), dtype=x.dtype)
                y = y + self.scaling * gate * (self.weight_b[:, i * rank : (i + 1) * rank] @ h)
            h_shared = self.weight_a[rank:] @ token
            y = y + self.shared_scaling * (self.weight_b[:, self.blocks * rank :] @ h_shared)
            outputs.append(y)
        return torch.stack(outputs).view(*x.shape[:-1], OUT)


def layer(
    num_experts: int = 3,
    shared_expert: bool = False,
    router_input: str = "low_rank",
    r: int = 4,
    bias: bool = True,
    dtype: torch.dtype = torch.float64,
    shared_rank: int = 0,
) -> Layer:
    router_width = IN if router_input == "hidden" else r
    if router_input == "index":
        router = torch.tensor([num_experts - 1, -1])
    elif router_input == "given":
        router = torch.rand(2, num_experts, dtype=torch.promote_types(dtype, torch.float32))
    else:
        router = torch.randn(num_experts, router_width, dtype=dtype).requires_grad_()
    return Layer(
        base_weight=torch.randn(OUT, IN, dtype=dtype) / IN**0.5,
        base_bias=torch.randn(OUT, dtype=dtype) if bias else None,
        weight_a=torch.randn(r + shared_rank, IN, dtype=dtype).requires_grad_(),
        weight_b=torch.randn(OUT, (num_experts + shared_expert) * r + shared_rank, dtype=dtype).requires_grad_(),
        gating=router if num_experts > 1 else None,
        scaling=1.5,
        router_input="given" if router_input == "index" else router_input,
        shared_rank=shared_rank,
    )


VARIANTS = [  # experts, shared expert, router_input, r, shared_rank
    *itertools.product((1, 3, 10), (False, True), ("low_rank", "hidden", "given"), (1, 4), (0,)),
    *itertools.product((1, 3), (False,), ("low_rank", "hidden", "given", "index"), (1, 4), (1, 5)),
    (3, True, "low_rank", 2, 5),
    (3, False, "index", 2, 0),
]


def test_gates_are_a_softmax_in_float32() -> None:
    z, weight = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16), torch.eye(2, dtype=torch.bfloat16)
    gates = router_gates(z, weight)
    assert gates.dtype == torch.float32
    torch.testing.assert_close(gates, torch.tensor([[0.26894142, 0.73105858]]))
    torch.testing.assert_close(with_shared_expert(gates)[0, 2], torch.tensor(1.0))


@pytest.mark.parametrize(("num_experts", "shared_expert", "router_input", "r", "shared_rank"), VARIANTS)
def test_eager_and_fused_equal_the_loop(
    num_experts: int, shared_expert: bool, router_input: str, r: int, shared_rank: int
) -> None:
    weights = layer(num_experts, shared_expert, router_input, r, shared_rank=shared_rank)
    x = torch.randn(2, 5, IN, dtype=torch.float64)
    expected = weights.slow(x)
    torch.testing.assert_close(weights.eager(x), expected)
    torch.testing.assert_close(weights.fused(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(weights.fused(x), expected)


@pytest.mark.parametrize(("num_experts", "shared_expert", "router_input", "r", "shared_rank"), VARIANTS)
def test_fused_gradients_equal_autograd(
    num_experts: int, shared_expert: bool, router_input: str, r: int, shared_rank: int
) -> None:
    weights = layer(num_experts, shared_expert, router_input, r, shared_rank=shared_rank)
    x = torch.randn(2, 5, IN, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(2, 5, OUT, dtype=torch.float64)
    wanted = [x, *weights.parameters()]
    expected = torch.autograd.grad(weights.eager(x), wanted, grad)
    torch.testing.assert_close(torch.autograd.grad(weights.fused(x), wanted, grad), expected)


@pytest.mark.parametrize("shared_rank", [0, 3])
@pytest.mark.parametrize("router_input", ["low_rank", "hidden", "given"])
def test_gradcheck(router_input: str, shared_rank: int) -> None:
    weights = layer(shared_expert=True, router_input=router_input, r=2, shared_rank=shared_rank)
    x = torch.randn(4, IN, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor, a: Tensor, b: Tensor, router: Tensor | None = weights.gating) -> Tensor:
        base = (weights.base_weight, weights.base_bias)
        return hydra_linear(x, *base, a, b, router, 1.5, router_input, shared_rank, 0.75)

    assert torch.autograd.gradcheck(function, (x, *weights.parameters()))


def test_zero_experts_leave_the_base_bit_identical() -> None:
    weights = layer(dtype=torch.float32)
    weights.weight_b = torch.zeros_like(weights.weight_b, requires_grad=True)
    x = torch.randn(7, IN)
    assert torch.equal(weights.fused(x), F.linear(x, weights.base_weight, weights.base_bias))


@pytest.mark.parametrize("shape", [(IN,), (0, IN), (2, 3, 4, IN)])
def test_any_leading_shape(shape: tuple[int, ...]) -> None:
    weights = layer()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = weights.fused(x)
    torch.testing.assert_close(y, weights.eager(x))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.shape == shape


def test_inputs_and_gradients_that_are_not_contiguous() -> None:
    weights = layer()
    x = torch.randn(IN, 6, 2, dtype=torch.float64).transpose(0, 2).requires_grad_()  # [2, 6, IN]
    grad = torch.randn(OUT, 6, 2, dtype=torch.float64).transpose(0, 2)
    wanted = [x, *weights.parameters()]
    actual = torch.autograd.grad(weights.fused(x), wanted, grad)
    torch.testing.assert_close(actual, torch.autograd.grad(weights.eager(x), wanted, grad))


def test_gradients_only_where_they_are_wanted() -> None:
    weights = layer()
    weights.weight_a.requires_grad_(False)
    x = torch.randn(5, IN, dtype=torch.float64)
    weights.fused(x).sum().backward()
    assert x.grad is None
    assert weights.weight_a.grad is None
    assert weights.base_weight.grad is None
    assert weights.weight_b.grad is not None


@pytest.mark.parametrize("shared_rank", [0, 3])
@pytest.mark.parametrize("router_input", ["low_rank", "hidden", "given", "index"])
def test_autocast_runs_in_its_dtype_and_returns_gradients_in_the_parameters(
    router_input: str, shared_rank: int
) -> None:
    weights = layer(router_input=router_input, dtype=torch.float32, shared_rank=shared_rank)
    x = torch.randn(2, 20, IN, requires_grad=True)
    wanted = [x, *weights.parameters()]
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = weights.fused(x), weights.eager(x)
    assert y.dtype == expected.dtype == torch.bfloat16
    # The same rounding of operands; between them sums are rounded once less: a few units of bfloat16 (2^-8).
    assert relative_error(y, expected) < 0.01
    grad = torch.randn_like(y)
    for actual, reference in zip(
        torch.autograd.grad(y, wanted, grad), torch.autograd.grad(expected, wanted, grad), strict=True
    ):
        assert actual.dtype == torch.float32
        assert relative_error(actual, reference) < 0.02


def test_saves_its_input_and_the_low_rank_activation_only() -> None:
    weights = layer(num_experts=10, r=4, dtype=torch.float32)
    x = torch.randn(50, IN, requires_grad=True)
    inputs = {t.data_ptr() for t in (x, weights.base_weight, *weights.parameters())}
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
        weights.fused(x)
    assert [t.shape for t in saved if t.data_ptr() not in inputs] == [(50, 4)]


def test_gradient_checkpointing() -> None:
    weights = layer()
    x = torch.randn(5, IN, dtype=torch.float64, requires_grad=True)
    wanted = [x, *weights.parameters()]
    y = checkpoint(weights.fused, x, use_reentrant=False)
    expected = torch.autograd.grad(weights.fused(x).square().sum(), wanted)
    assert isinstance(y, Tensor)
    torch.testing.assert_close(torch.autograd.grad(y.square().sum(), wanted), expected, rtol=0, atol=0)


def test_second_derivatives_are_refused() -> None:
    x = torch.randn(5, IN, dtype=torch.float64, requires_grad=True)
    y = layer().fused(x)
    with pytest.raises(RuntimeError, match="differentiable once: call backward without create_graph=True"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize("shared_rank", [0, 3])
@pytest.mark.parametrize("router_input", ["low_rank", "hidden", "index"])
def test_compiles_in_one_graph(router_input: str, shared_rank: int) -> None:
    weights = layer(router_input=router_input, shared_rank=shared_rank)
    x = torch.randn(6, IN, dtype=torch.float64, requires_grad=True)
    wanted = [x, *weights.parameters()]
    compiled = torch.compile(weights.fused, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x), weights.fused(x)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, wanted, grad), torch.autograd.grad(expected, wanted, grad))


def linear(dtype: torch.dtype = torch.float32) -> nn.Linear:
    return nn.Linear(4, 4, dtype=dtype).requires_grad_(False)


def hooked() -> nn.Linear:
    module = linear()
    module.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    ("base", "adapter"),
    [
        (nn.Linear(4, 4), linear()),  # trainable
        (nn.Sequential(linear()), linear()),
        (hooked(), linear()),
        (linear(), hooked()),
        (linear(torch.float64), linear()),  # PEFT's LoRA would compute the two in different dtypes
    ],
)
def test_what_is_not_fused(base: nn.Module, adapter: nn.Module) -> None:
    assert can_fuse(torch.randn(2, 4), linear(), linear())
    assert not can_fuse(torch.randn(2, 4), base, adapter)


@torch.no_grad()
def test_a_trainable_base_is_fused_where_nothing_is_trained() -> None:
    assert can_fuse(torch.randn(2, 4), linear().requires_grad_(), linear())


def test_autocast_leaves_float64_alone_and_so_do_we() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert can_fuse(torch.randn(2, 4), linear(), linear(torch.bfloat16))
        assert not can_fuse(torch.randn(2, 4, dtype=torch.float64), linear(), linear())


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float(((actual.double() - expected.double()).norm() / expected.double().norm()).detach())
