"""What the sections show of odd runs."""

import dataclasses
from pathlib import Path

import polars as pl
import pytest

from analysis.adapters.breakdown import ComponentAdapter, break_down
from analysis.adapters.routing import analyse_routing
from analysis.report import MoreTable, ReportInputs, write_report
from analysis.report.training_sections import numbers_of
from analysis.report.verdict import verdict
from tests.analysis.report.small_reports import CROSS, EMPTY, grouped_with
from tests.analysis.synthetic_run import hydralora_state, lora_state


@pytest.mark.parametrize(
    ("parts", "n_experts", "figures"),
    [(0, 1, set()), (0, 3, {"similarity_by_relation"}), (2, 1, {"similarity_by_relation", "similarity_by_layer"})],
)
def test_a_breakdown_with_little_in_it_is_drawn(parts: int, n_experts: int, figures: set[str], tmp_path: Path):
    found = [ComponentAdapter(f"{p}", f"{p}", 0, lora_state(0, p, n_layers=2)) for p in range(parts)]
    breakdown = break_down(found, hydralora_state(n_experts, n_layers=2), methods=())
    files = write_report(dataclasses.replace(EMPTY, breakdown=breakdown), tmp_path)
    assert set(files.figures) == figures


def test_routing_of_one_expert_is_drawn(tmp_path: Path):
    gates = pl.DataFrame({"layer": [0], "module": ["q"], "expert": [0], "group_kind": ["all"], "group": ["all"],
                          "gate": [1.0], "n_tokens": [9]})  # fmt: skip
    routing = analyse_routing(gates, pl.DataFrame({"layer": [0], "module": ["q"], "entropy": [0.0]}))
    assert set(write_report(dataclasses.replace(EMPTY, routing=routing), tmp_path).figures) == {"entropy_and_usage"}


def test_given_gates_are_told_in_a_sentence(inputs: ReportInputs, tmp_path: Path):
    files = write_report(dataclasses.replace(grouped_with(inputs, CROSS), breakdown=None, curves=None), tmp_path)
    assert not {"gates_by_cluster", "gate_association", "entropy_and_usage"} & set(files.figures)
    assert "cross_losses" in files.figures
    page = files.html.read_text("utf-8")
    assert "a whole document goes to the expert of its source" in page
    assert "token by token" not in page


def test_a_method_has_one_colour_and_the_base_model_is_grey(inputs: ReportInputs):
    assert inputs.evaluation is not None
    base = inputs.evaluation.with_columns(method=pl.lit("base"))
    numbers = numbers_of(dataclasses.replace(inputs, evaluation=pl.concat([base, inputs.evaluation])))
    assert numbers == {"hydralora": 0, "lora_matched": 1, "base": 6, "lora_r8": 2}


def test_further_tables_are_sections_and_times_need_no_energy(inputs: ReportInputs, tmp_path: Path):
    assert inputs.energy is not None
    more = (
        MoreTable("serving", "One LoRA for each domain", "What it costs.", pl.DataFrame({"domain": ["<i>law</i>"]})),
    )
    energy = inputs.energy.with_columns(energy_kwh=pl.lit(None, pl.Float64))
    page = write_report(dataclasses.replace(EMPTY, more=more, energy=energy), tmp_path).html.read_text("utf-8")
    assert '<section id="serving"' in page
    assert "&lt;i&gt;law&lt;/i&gt;" in page
    assert "Energy was not measured" in page
    assert "time, s" in page
    assert "energy, Wh" not in page


def test_times_of_runs_that_skipped_layers_do_not_compare_methods(inputs: ReportInputs, tmp_path: Path):
    assert inputs.energy is not None
    energy = inputs.energy.with_columns(remembered_batches=pl.Series([0, 8]))
    for table, said in ((inputs.energy, False), (energy, True)):
        page = write_report(dataclasses.replace(EMPTY, energy=table), tmp_path).html.read_text("utf-8")
        assert ("They do not compare methods" in page) == said


def test_a_source_of_which_half_is_gone_is_on_the_first_screen(inputs: ReportInputs):
    assert not any("Is the corpus" in statement.question for statement in verdict(inputs))
    card = {
        "n_kept": 3,
        "sources": [{"source": "web", "n_read": 9, "n_kept": 3}, {"source": "books", "n_read": 9, "n_kept": 5}],
        "dropped": [
            {"source": "web", "reason": "invalid_utf8", "n": 6},
            {"source": "books", "reason": "near_duplicate", "n": 1},
            {"source": "books", "reason": "over_source_limit", "n": 3},
        ],
    }
    line = next(
        s for s in verdict(dataclasses.replace(inputs, data_card=card)) if s.question == "Is the corpus what was read?"
    )
    assert line.level == "bad"
    assert line.answer == "No, half of 1 source or more is gone"
    assert line.detail == "Source 'web' has lost 6 of 9 records: 6 invalid_utf8."
