"""Fingerprints of artifacts: equal for equal values, whatever their order, and for no others."""

import json
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.store.artifacts import fingerprint_of
from pipelines.store.files.draft import without_nan

PLAIN = st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(allow_nan=False) | st.text(max_size=5)
VALUES = st.recursive(PLAIN, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3))
CONFIGS = st.dictionaries(st.text(max_size=4), VALUES, max_size=5)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        items = [(name, shuffled(item, order)) for name, item in value.items()]
        order.shuffle(items)
        return dict(items)
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@given(CONFIGS, st.integers(0, 9))
def test_the_order_of_keys_does_not_matter(config: dict[str, Any], seed: int) -> None:
    other = shuffled(config, random.Random(seed))
    assert fingerprint_of(other) == fingerprint_of(config)
    assert len(fingerprint_of(config)) == 16


@given(CONFIGS, CONFIGS)
def test_other_values_have_other_fingerprints(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (fingerprint_of(one) == fingerprint_of(other)) == same


@given(CONFIGS)
def test_a_record_read_back_has_the_same_fingerprint(config: dict[str, Any]) -> None:
    assert fingerprint_of(json.loads(json.dumps(config))) == fingerprint_of(config)


@given(st.recursive(st.floats() | st.integers(), lambda v: st.lists(v) | st.dictionaries(st.text(max_size=2), v)))
def test_every_number_can_be_written_once_nan_is_gone(value: Any) -> None:
    json.dumps(without_nan(value), allow_nan=False)
