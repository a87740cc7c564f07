"""What Dagster says of a configuration that it refuses."""

import sys

import dagster as dg
import pytest

from pipelines.definitions import defs
from pipelines.run_checks import explain_invalid_configurations


def told(error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the interpreter's last handler prints of an error."""
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    explain_invalid_configurations()
    sys.excepthook(type(error), error, error.__traceback__)
    return capsys.readouterr().err


def test_dagster_refuses_a_configuration_in_sentences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"ops": {"raw_documents": {"config": {"sources": []}}, "cluster_sweep": {"config": {"n_initt": 3}}}}
    with pytest.raises(dg.DagsterInvalidConfigError) as refused:
        dg.validate_run_config(defs.resolve_job_def("corpus"), wrong)
    text = told(refused.value, monkeypatch, capsys)
    assert text.startswith("ops.cluster_sweep.config.n_initt: expected one of balance_sources, max_clusters, n_init")
    assert text.endswith("Did you mean n_init?\n")


def test_other_errors_keep_their_stack_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "KeyError: 'lost'" in told(KeyError("lost"), monkeypatch, capsys)
