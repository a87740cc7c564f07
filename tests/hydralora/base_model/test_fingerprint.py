"""Every change of a base weight changes the fingerprint, and nothing else does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hydralora.base_model import weights_fingerprint

Change = Callable[[Tensor], Tensor]


def one(weight: Tensor) -> Any:
    """A model of one parameter."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(weight, requires_grad=False)
    return model


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (3, 1), (7, 301), (64, 1024), (5, 4099)])
def test_one_bit_anywhere(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = drawn(*shape, dtype=dtype)
    before = weights_fingerprint(one(weight))
    assert weights_fingerprint(one(weight.clone())) == before
    size = weight.numel() * weight.element_size()
    for place in {0, size - 1, *torch.randint(size, (20,), generator=torch.Generator().manual_seed(1)).tolist()}:
        changed = weight.clone()
        changed.view(-1).view(torch.uint8)[place] ^= 1
        assert weights_fingerprint(one(changed)) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.roll(1, 0),
        lambda weight: weight.roll(1, 1),
        lambda weight: weight.flip(1),
        lambda weight: weight.t().contiguous().view(weight.shape),
        lambda weight: weight.view(40, 300),
        lambda weight: weight.view(torch.int32),
        lambda weight: -weight,
    ],
)
def test_another_order_shape_or_type(change: Change) -> None:
    weight = drawn(300, 40)
    assert weights_fingerprint(one(change(weight))) != weights_fingerprint(one(weight))


def test_the_storage_does_not_count() -> None:
    weight = drawn(9, 33)
    expected = weights_fingerprint(one(weight))
    apart = torch.cat([torch.zeros(1), weight.flatten()])[1:].view(9, 33)  # begins within a word
    strided = weight.t().contiguous().t()
    assert weights_fingerprint(one(apart)) == weights_fingerprint(one(strided)) == expected


def test_a_nan_equals_itself_and_nothing_is_allowed() -> None:
    weight = drawn(4, 5)
    weight[1, 2] = torch.nan
    assert weights_fingerprint(one(weight)) == weights_fingerprint(one(weight.clone()))
    assert weights_fingerprint(one(torch.empty(0, 3)))
