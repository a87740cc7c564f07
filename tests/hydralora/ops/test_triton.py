"""Triton's pieces against the plain ones in float64: on a GPU, or on a CPU with TRITON_INTERPRET=1."""

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hydralora.ops import torch_kernels as small
from hydralora.ops.fused import hydra_linear

pieces = pytest.importorskip("hydralora.ops.triton_launch", reason="needs Triton", exc_type=ImportError)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    # torch makes its own context in the thread of backward, and says so once.
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),
    pytest.mark.gpu,
    pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="needs CUDA or TRITON_INTERPRET=1"),
]

# Relative error of the whole result: operands are rounded to 2^-9 (bfloat16) or 2^-12 (float16), sums are float32.
TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
# Triton's interpreter multiplies the bit patterns of bfloat16.
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
VARIANTS = [  # experts, shared expert (bool) or rank of a shared LoRA (int), router_input, rank, tokens, in, out
    (1, False, "low_rank", 8, 5, 64, 48),
    (3, False, "low_rank", 8, 37, 300, 200),
    (3, True, "low_rank", 5, 40, 300, 136),
    (10, False, "low_rank", 16, 33, 520, 130),
    (3, False, "hidden", 8, 1, 300, 200),
    (10, True, "hidden", 4, 50, 260, 72),
    (6, True, "given", 7, 28, 300, 136),
    (3, False, "given", 8, 44, 128, 64),
    (1, 4, "low_rank", 8, 5, 64, 48),
    (3, 16, "low_rank", 3, 37, 300, 200),
    (10, 5, "hidden", 4, 50, 260, 72),
    (6, 16, "given", 3, 28, 300, 136),
    (6, 16, "index", 3, 28, 300, 136),
    (32, 12, "index", 1, 40, 128, 64),
    (3, 0, "index", 8, 44, 128, 64),
]


def shared_rank_of(shared: bool | int) -> int:
    return 0 if isinstance(shared, bool) else shared


def weights(experts: int, shared: bool | int, router_input: str, r: int, d_in: int, d_out: int) -> list[Tensor | None]:
    """W, A, B and router, scaled so that every term has size 1, in float64."""
    router_width = d_in if router_input == "hidden" else r
    s = shared_rank_of(shared)
    columns = (experts + (shared is True)) * r + s
    draw = [(d_out, d_in), (r + s, d_in), (d_out, columns), (experts, router_width)]
    tensors: list[Tensor | None] = [torch.randn(s, dtype=torch.float64, device=DEVICE) / s[1] ** 0.5 for s in draw]
    if experts == 1:
        tensors[3] = None
    if router_input == "index":
        tensors[3] = torch.tensor([1, -1, experts - 1, 0], device=DEVICE)
    elif router_input == "given":  # four sequences
        tensors[3] = torch.rand(4, experts, dtype=torch.float64, device=DEVICE)
    return tensors


def rounded(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype) if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_and_gradients(variant: tuple, dtype: torch.dtype) -> None:
    experts, shared, router_input, r, tokens, d_in, d_out = variant
    x = torch.randn(tokens, d_in, device=DEVICE, dtype=dtype)
    grad = torch.randn(tokens, d_out, device=DEVICE, dtype=dtype)
    low = [rounded(w, dtype) for w in weights(experts, shared, router_input, r, d_in, d_out)]
    assert pieces.supports(x)
    s = shared_rank_of(shared)
    for actual, expected in zip(
        run(x, grad, low, router_input, s),
        run(x.double(), grad.double(), [rounded(w, torch.float64) for w in low], router_input, s),
        strict=True,
    ):
        assert torch.isfinite(actual).all()
        assert relative_error(actual, expected) < TOLERANCE[dtype]


def run(x: Tensor, grad: Tensor, tensors: list[Tensor | None], router_input: str, shared_rank: int = 0) -> list[Tensor]:
    """Output without gradients, output, and the gradients of x, A, B and the router."""
    x = x.clone().requires_grad_()
    base, *adapter = tensors
    adapter = [None if w is None else w.clone() for w in adapter]
    is_given = router_input in ("given", "index")
    if router_input == "given":
        adapter[2] = adapter[2].to(torch.promote_types(x.dtype, torch.float32))
    for w in adapter[: 2 if is_given else 3]:
        if w is not None:
            w.requires_grad_()
    split = (2.0, "given" if is_given else router_input, shared_rank, 0.5)
    with torch.no_grad():
        inference = hydra_linear(x, base, None, *adapter, *split)  # few tokens: the kernel of one launch
    y = hydra_linear(x, base, None, *adapter, *split)
    wanted = [t for t in (x, *adapter) if t is not None and t.requires_grad]
    return [inference, y, *torch.autograd.grad(y, wanted, grad)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_few_tokens_on_tensor_cores(variant: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel for larger layers; `test_layer_and_gradients` has the one for small ones."""
    monkeypatch.setattr(pieces, "_VECTOR_OUTPUTS", 0)
    experts, shared, router_input, r, tokens, d_in, d_out = variant
    tensors = [rounded(w, torch.float16) for w in weights(experts, shared, router_input, r, d_in, d_out)]
    x = torch.randn(min(tokens, 28), d_in, device=DEVICE, dtype=torch.float16)
    with torch.no_grad():
        split = (2.0, "given" if router_input == "index" else router_input, shared_rank_of(shared), 0.5)
        actual = hydra_linear(x, tensors[0], None, *tensors[1:], *split)
        wide = [rounded(w, torch.float64) for w in tensors]
        expected = hydra_linear(x.double(), wide[0], None, *wide[1:], *split)
    assert relative_error(actual, expected) < TOLERANCE[torch.float16]


@pytest.mark.skipif(INTERPRETED, reason="needs CUDA")
@pytest.mark.parametrize("router_input", ["low_rank", "hidden"])
def test_compiled_with_the_kernels(router_input: str) -> None:
    x = torch.randn(128, 256, device=DEVICE, dtype=torch.bfloat16)
    grad = torch.randn(128, 192, device=DEVICE, dtype=torch.bfloat16)
    base, *adapter = [rounded(w, torch.bfloat16) for w in weights(3, False, router_input, 8, 256, 192)]

    def gradients(layer: Callable) -> list[Tensor]:
        inputs = [x.clone().requires_grad_(), *(w.clone().requires_grad_() for w in adapter)]
        y = layer(inputs[0], base, None, *inputs[1:], 2.0, router_input)
        return [y, *torch.autograd.grad(y, inputs, grad)]

    compiled = gradients(torch.compile(hydra_linear, fullgraph=True))
    for one, other in zip(compiled, gradients(hydra_linear), strict=True):
        assert relative_error(one, other.double()) < 1e-2


@pytest.mark.parametrize("hidden", [False, True])
def test_pieces_write_every_element_and_repeat(hidden: bool) -> None:
    x = torch.randn(37, 300, device=DEVICE, dtype=torch.float16)
    a = torch.randn(8, 300, device=DEVICE, dtype=torch.float16) / 17
    router = torch.randn(3, 300 if hidden else 8, device=DEVICE, dtype=torch.float16) / 17
    kind = "hidden" if hidden else "low_rank"
    low, u = pieces.project_and_gate(x, a, router, 4, 2.0, kind)
    expected_low, expected_u = small.project_and_gate(x.double(), a.double(), router.double(), 4, 2.0, kind)
    assert relative_error(low, expected_low) < 1e-3
    assert relative_error(u, expected_u) < 1e-3

    grad_u = torch.randn_like(u)
    actual = pieces.gate_backward(grad_u, low, router, 8, 2.0, kind)
    expected = small.gate_backward(grad_u.double(), low.double(), router.double(), 8, 2.0, kind)
    for one, other, again in zip(
        actual, expected, pieces.gate_backward(grad_u, low, router, 8, 2.0, kind), strict=True
    ):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert relative_error(one, other) < 1e-3
            assert torch.equal(one, again)


@pytest.mark.skipif(INTERPRETED, reason="needs CUDA")
def test_cuda_graph() -> None:
    x = torch.randn(64, 256, device=DEVICE, dtype=torch.bfloat16)
    tensors = [rounded(w, torch.bfloat16) for w in weights(3, False, "low_rank", 8, 256, 128)]
    grad = torch.randn(64, 128, device=DEVICE, dtype=torch.bfloat16)
    run(x, grad, tensors, "low_rank")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run(x, grad, tensors, "low_rank")
    x.copy_(torch.randn_like(x))
    graph.replay()
    for one, other in zip(captured, run(x, grad, tensors, "low_rank"), strict=True):
        assert torch.equal(one, other)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float(((actual.double() - expected).norm() / expected.norm()).detach())
