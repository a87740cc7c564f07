"""What watches modules or follows operations sees the adapter as it sees PEFT's LoRA: the fused path steps aside."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import accelerate
import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as nn_module

from hydralora import HydraLoraConfig, expert_gates, record_gates


@contextmanager
def must_not_fuse(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("hydralora.adapter.linear.hydra_linear", lambda *_: pytest.fail("fused"))
        yield


def small() -> Any:
    torch.manual_seed(0)
    config = HydraLoraConfig(r=2, target_modules=["0"], init_weights=False)
    return get_peft_model(nn.Sequential(nn.Linear(5, 4)), config)


def test_the_usual_path_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    with must_not_fuse(monkeypatch), pytest.raises(BaseException, match="fused"):
        model(torch.randn(3, 5))


@pytest.mark.parametrize("part", ["hydralora_A", "hydralora_B", "hydralora_router", "hydralora_dropout"])
@pytest.mark.parametrize(
    "register",
    [
        nn.Module.register_forward_hook,
        nn.Module.register_forward_pre_hook,
        nn.Module.register_full_backward_hook,
        nn.Module.register_full_backward_pre_hook,
    ],
)
def test_hooks_fire(part: str, register: Callable[..., Any]) -> None:
    model = small()
    fired: list[str] = []
    register(getattr(model.base_model.model[0], part)["default"], lambda *_: fired.append(part))
    model(torch.randn(3, 5, requires_grad=True)).sum().backward()
    assert fired == [part]


@pytest.mark.parametrize(
    "register",
    [
        nn_module.register_module_forward_hook,
        nn_module.register_module_forward_pre_hook,
        nn_module.register_module_full_backward_hook,
        nn_module.register_module_full_backward_pre_hook,
    ],
)
def test_global_hooks_see_the_adapter(register: Callable[..., Any]) -> None:
    model = small()
    b = model.base_model.model[0].hydralora_B["default"]
    fired: list[bool] = []
    handle = register(lambda module, *_: fired.append(True) if module is b else None)
    try:
        model(torch.randn(3, 5, requires_grad=True)).sum().backward()
    finally:
        handle.remove()
    assert fired == [True]


def test_a_forward_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    a = model.base_model.model[0].hydralora_A["default"]
    a.forward = lambda x: nn.Linear.forward(a, x) * 0
    x = torch.randn(3, 5)
    with must_not_fuse(monkeypatch):
        torch.testing.assert_close(model(x), model.base_model.model[0].base_layer(x))


def test_torch_func() -> None:
    model = small().double()
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    x = torch.randn(3, 5, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (rows,)).square().sum()

    gradients = torch.func.grad(loss)(trained, x)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(gradients[name], parameter.grad)
    of_rows = torch.func.vmap(torch.func.grad(loss), (None, 0))(trained, x[:, None])
    for name, gradient in gradients.items():
        torch.testing.assert_close(of_rows[name].sum(0), gradient)
    _, tangent = torch.func.jvp(model, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, (model(x + 1e-6) - model(x - 1e-6)) / 2e-6, rtol=1e-6, atol=1e-6)
    assert torch.func.jacrev(model)(x[0]).shape == torch.func.jacfwd(model)(x[0]).shape == (4, 5)


def test_forward_mode_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small(), torch.randn(3, 5)
    with must_not_fuse(monkeypatch), forward_ad.dual_level():
        output = model(forward_ad.make_dual(x, torch.ones_like(x)))
        assert forward_ad.unpack_dual(output).tangent is not None


@pytest.mark.parametrize("strict", [True, False])
def test_export(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    model, x = small().eval(), torch.randn(3, 5)
    with must_not_fuse(monkeypatch):
        exported = torch.export.export(model, (x,), strict=strict)
    torch.testing.assert_close(exported.module()(x), model(x))


def test_the_output_may_be_changed_in_place() -> None:
    """As models do that add to a layer's output; autograd forbids it for views that a function of its own returns."""
    model, x = small(), torch.randn(2, 3, 5)
    expected = model(x) + 1
    y = model(x)
    y.add_(1)
    torch.testing.assert_close(y, expected)
    y.sum().backward()


@pytest.mark.parametrize("router_input", ["low_rank", "hidden", "uniform", "given"])
def test_weights_that_are_offloaded(router_input: str) -> None:
    """Accelerate moves each weight to the device for its own module's call only."""
    torch.manual_seed(0)
    config = HydraLoraConfig(r=2, target_modules=["0"], init_weights=False, router_input=router_input, shared_rank=2)
    model, x = get_peft_model(nn.Sequential(nn.Linear(5, 4)), config), torch.randn(2, 5)
    with expert_gates(model, torch.eye(3)[:2]):
        expected = model(x)
        accelerate.cpu_offload(model.base_model.model, execution_device=torch.device("cpu"), offload_buffers=True)
        assert model.base_model.model[0].hydralora_A["default"].weight.is_meta
        torch.testing.assert_close(model(x), expected)


def test_second_derivatives_while_gates_are_recorded() -> None:
    model, x = small(), torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    model.double()
    with record_gates(model):
        assert torch.autograd.gradgradcheck(model, x)
