"""Alarms of a routing analysis, in words."""

import polars as pl

from analysis.adapters.alarms import routing_alarms
from analysis.adapters.routing import analyse_routing
from tests.analysis.adapters.test_routing import LABELS, NO_SIMILARITY, similar_experts
from tests.analysis.synthetic_run import hydralora_state, routing_tables


def usage_table(rows: list[list[float]]) -> pl.DataFrame:
    data = [(layer, "q_proj", expert, use) for layer, row in enumerate(rows) for expert, use in enumerate(row)]
    return pl.DataFrame(data, schema=["layer", "module", "expert", "usage"], orient="row")


def entropy_table(values: list[float]) -> pl.DataFrame:
    return pl.DataFrame({"layer": range(len(values)), "module": ["q_proj"] * len(values), "entropy": values})


def texts(usage: list[list[float]], entropy: list[float], similarity: pl.DataFrame = NO_SIMILARITY) -> list[str]:
    return [alarm.text for alarm in routing_alarms(usage_table(usage), entropy_table(entropy), similarity)]


def test_alarms_in_words():
    half = [0.5, 0.5]
    assert texts([half, half], [0.6, 0.7]) == []
    assert texts([half, half], [1.0, 1.0]) == ["router inert: entropy 1.000, every token gets all experts"]
    assert texts([half, [0.99, 0.01]], [0.6, 0.05]) == ["layer 1 q_proj collapsed: expert 0 has 99.0% of use"]
    assert texts([half, half], [0.6, 1.0]) == ["layer 1 q_proj inert: entropy 1.000"]
    dead = [0.49, 0.49, 0.02]
    assert texts([dead, dead], [0.6, 0.6]) == ["expert 2 is dead everywhere"]
    assert texts([dead, [0.3, 0.3, 0.4]], [0.6, 0.6]) == ["expert 2 is dead in 1 of 2 modules"]
    assert texts([[1.0]], [float("nan")]) == []


def test_equal_experts_are_named():
    gates, entropy, _ = routing_tables(LABELS)
    found = analyse_routing(gates, entropy, adapter=hydralora_state(4, same=True))
    assert [(alarm.level, alarm.text) for alarm in found.alarms] == [("warning", "experts 0 and 1 are the same")]
    assert found.similarity["gate_correlation"].null_count() == len(found.similarity)


def test_many_equal_experts_are_one_alarm():
    thirds = [[1 / 3, 1 / 3, 1 / 3]]
    assert texts(thirds, [0.6], similar_experts(0.97)) == ["all experts are nearly the same: median cosine of B 0.970"]
    assert texts(thirds, [0.6], similar_experts(0.5)) == []


def test_warnings_come_before_notes():
    found = routing_alarms(usage_table([[0.5, 0.5], [0.99, 0.01]]), entropy_table([1.0, 0.1]), NO_SIMILARITY)
    assert [alarm.level for alarm in found] == ["warning", "note"]
