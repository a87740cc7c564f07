"""Shapes of the eager functions: as their signatures say, for any leading dimensions; others are refused.

The other modules with shapes are checked in all tests (tests/conftest.py); torch's compiler cannot read such checks.
"""

from typing import Any

import pytest
import torch
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError, jaxtyped

from hydralora.ops import eager

R, N, OUT = 3, 4, 5
LEADING = st.lists(st.integers(1, 3), max_size=3).map(tuple)


def checked(name: str) -> Any:
    return jaxtyped(typechecker=beartype)(getattr(eager, name))


@settings(deadline=None, max_examples=20)
@given(tokens=LEADING, shared_rank=st.integers(0, 2), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_layer_step_by_step(tokens: tuple[int, ...], shared_rank: int, dtype: torch.dtype) -> None:
    low = torch.randn(*tokens, R + shared_rank, dtype=dtype)
    gates = checked("router_gates")(checked("expert_part")(low, shared_rank), torch.randn(N, R, dtype=dtype))
    assert gates.dtype == torch.float32
    torch.testing.assert_close(gates.sum(-1), torch.ones(tokens))
    assert checked("with_shared_expert")(gates)[..., -1].eq(1).all()
    inner = checked("gate_and_scale")(low, gates, R, 2.0, shared_rank, 1.0)
    assert inner.shape == (*tokens, N * R + shared_rank)


def test_gates_of_a_sequence_hold_for_all_its_tokens() -> None:
    gates = torch.rand(2, 1, N)
    inner = checked("gate_low_rank")(torch.randn(2, 7, R), gates, R)
    assert inner.shape == (2, 7, N * R)
    assert checked("one_hot_gates")(torch.tensor([0, -1, 3]), N).shape == (3, N)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("router_gates", (torch.ones(2, R), torch.ones(N, R + 1))),
        ("router_gates", (torch.ones(2, R, dtype=torch.long), torch.ones(N, R))),
        ("gate_low_rank", (torch.ones(2, R), torch.ones(3, N), R)),
        ("gate_and_scale", (torch.ones(2, R), torch.ones(3, N), R, 1.0)),
        ("one_hot_gates", (torch.ones(2), N)),
    ],
)
def test_other_shapes_and_types_are_refused(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeCheckError):
        checked(name)(*arguments)
