"""The commands that a report names, and the configurations that they need."""

from pathlib import Path

import pytest
import yaml

from analysis.report.budget import LEAST_STEPS, Spent
from pipelines.checks import problems_of
from pipelines.definitions import defs
from pipelines.report.commands import Request, comparison_of, next_steps, tokens_for
from pipelines.report.inputs import EMBEDDED_NAMES
from pipelines.run_configuration import read_configuration
from pipelines.store.artifacts import Artifact

CONFIGS = Path(__file__).parents[3] / "pipelines" / "configs"
SPENT = Spent(steps=14, tokens=14_000, seeds=1, seconds=60.0, held_out_documents=100)


def request_for(values: dict, file: str | None = "my data.yaml") -> Request:
    return Request("hydralora", values, file, "outputs/mine/report/0123")


def exports(folder: Path) -> Artifact:
    return Artifact("domain_exports", "abcd", folder)


def test_the_file_that_ran_is_named_or_else_its_copy() -> None:
    assert request_for({}).command == "hydralora run 'my data.yaml'"
    copy = request_for({}, None).command
    assert copy == "hydralora run outputs/mine/report/0123/configuration.yaml"


@pytest.mark.parametrize("name", ["quickstart.yaml"])
def test_the_comparison_is_a_configuration_that_works(name: str) -> None:
    values = read_configuration(CONFIGS / name)
    text = comparison_of(request_for(values), ["hydralora_sequence", "lora_matched"], 3, 123_456)
    assert text is not None
    found = yaml.safe_load(text)
    assert found["ops"]["method_comparison"]["config"]["seeds"] == [0, 1, 2]
    assert found["resources"]["recipe"]["config"]["max_tokens"] == 123_456
    assert values["resources"]["recipe"]["config"]["max_tokens"] == 15_000  # the run's own is left as it was
    assert problems_of(defs.resolve_job_def("compare"), found) == []


def test_a_run_on_an_earlier_corpus_has_no_comparison(tmp_path: Path) -> None:
    assert comparison_of(request_for({"ops": {"report": {}}}), ["a", "b"], 3, 1) is None
    (step,) = next_steps(request_for({}), SPENT, None, exports(tmp_path))
    assert step.command == "hydralora serve outputs/mine/domain_exports/abcd --backend http://localhost:8000"


def test_the_next_step_is_to_spend_enough_and_only_if_the_run_did_not(tmp_path: Path) -> None:
    assert tokens_for(SPENT) >= LEAST_STEPS * SPENT.tokens / SPENT.steps  # type: ignore[operator]
    steps = next_steps(request_for({}), SPENT, "ops: {}", exports(tmp_path))
    assert steps[0].command == "hydralora run outputs/mine/report/0123/compare.yaml --job compare"
    enough = Spent(steps=400, tokens=400_000, seeds=3, seconds=60.0, held_out_documents=300)
    assert len(next_steps(request_for({}), enough, "ops: {}", exports(tmp_path))) == 1


def test_the_embedded_model_has_the_name_that_the_method_gives_it() -> None:
    from hydralora.base_model import EMBEDDED, EMBEDDED_ON_HUB

    assert {EMBEDDED: f"{EMBEDDED_ON_HUB.rpartition('/')[2]} (embedded)"} == EMBEDDED_NAMES
