"""What a run says in the terminal."""

import pytest

from pipelines.console import StageHandler, failure_text
from pipelines.training.progress import duration, progress_events


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> StageHandler:
    """After one second of reading and one found adapter, in a run of four stages."""
    clock = iter([0.0, 100.0, 200.0])
    monkeypatch.setattr("pipelines.console.time.monotonic", lambda: next(clock))
    stages = ("raw_documents", "component_adapters", "hydralora_adapter", "baseline_adapters")
    return StageHandler(stages=stages)


def test_each_stage_tells_the_time_so_far_and_left(handler: StageHandler) -> None:
    assert handler._finished_stage("raw_documents", 1.0) == "[ 1/4] raw_documents              1.0 s   2 min so far"
    told = handler._finished_stage("component_adapters", 99.0)
    assert told.endswith("3 min so far, about 3 min left")
    handler._finished |= {"hydralora_adapter": 100.0}
    assert handler._finished_stage("baseline_adapters", 5.0) == "[ 4/4] baseline_adapters          5.0 s"


def test_what_was_found_finished_says_nothing_about_the_time(handler: StageHandler) -> None:
    handler._reused |= {"raw_documents", "component_adapters"}
    handler._finished_stage("raw_documents", 0.0)
    assert "left" not in handler._finished_stage("component_adapters", 0.1)


def test_a_training_tells_the_time_left() -> None:
    from hydralora.training import Progress

    told: list[str] = []
    show = progress_events(told.append, "lora")
    show(Progress(1, 4, 1_000, 2.5, 10.0))
    show(Progress(4, 4, 4_000, 2.0, 10.0))
    assert told == [
        "lora: step 1 of 4, loss 2.500, 10 tokens/s, about 5 min left",
        "lora: step 4 of 4, loss 2.000, 10 tokens/s",
    ]
    assert (duration(89.4), duration(90)) == ("89 s", "2 min")


def test_a_stopped_run_shows_no_stack() -> None:
    from dagster._utils.error import SerializableErrorInfo

    stopped = SerializableErrorInfo("", ["  File ..."], "DagsterExecutionInterruptedError")
    around = SerializableErrorInfo("", [], "DagsterExecutionStepExecutionError", stopped)
    assert failure_text(around) == "It was stopped, by Ctrl-C or a signal."
