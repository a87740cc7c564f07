"""Values between the sandbox and its checker."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydralora.harness.sandboxed_program import decode, encode

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=10,
) | st.frozensets(st.integers() | st.text()) | st.sets(st.integers())  # fmt: skip


@settings(max_examples=200)
@given(plain)
def test_values_arrive_as_they_were_sent(value: Any) -> None:
    received = decode(json.loads(json.dumps(encode(value))))
    assert type(received) is type(value)
    assert repr(received) == repr(value) or received == value  # not-a-numbers are unequal; sets have no order


def test_other_values_do_not_pass() -> None:
    assert list(decode(json.loads(json.dumps(encode(map(abs, [-1, 2])))))) == [1, 2]
    assert decode(encode(range(3, 9, 2))) == range(3, 9, 2)
    assert math.isnan(decode(json.loads(json.dumps(encode(math.nan)))))
    for value in (object(), len, {1: object()}, type):
        with pytest.raises(TypeError, match="Python's own types"):
            encode(value)
