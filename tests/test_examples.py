"""The examples of docstrings and the README's Python run; YAML, JSON and Python of the pages name what there is."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import torch
import yaml

from hydralora.methods import MethodConfig
from hydralora.training import TrainingConfig
from hydralora.training.run import read_description
from pipelines.components import ConfiguredJob
from pipelines.definitions import defs
from pipelines.jobs import JOBS, assets_of
from pipelines.store.assets import ASSETS
from tests.documentation import blocks, inline_code

RESOURCES = ("store", "base_model", "recipe", "launcher", "engine")

WITH_EXAMPLES = (
    "analysis.clusters.kmeans.sweep",
    "analysis.clusters.choice.selection",
    "hydralora.adapter.config",
    "hydralora.ops.eager",
    "pipelines.store.artifacts",
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed


def of_pages(language: str) -> pytest.MarkDecorator:
    found = blocks(language)
    return pytest.mark.parametrize("text", [block.text for block in found], ids=[block.place for block in found])


@pytest.mark.parametrize("text", [block.text for block in blocks("python") if block.place.startswith("README.md")])
def test_python_of_the_readme(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    tiny = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, bos_token_id=1
    )
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda _: LlamaForCausalLM(tiny))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(ast.parse(text), "README.md", "exec"), names)
    assert any(tmp_path.iterdir())
    names["model"](input_ids=torch.ones(2, 3, dtype=torch.int64), expert_gates=torch.eye(6)[:2])  # as a comment says


@of_pages("python")
def test_python_of_the_pages(text: str) -> None:
    imported: dict[str, Any] = {}
    tree = ast.parse(text)
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([statement], []), "documentation", "exec"), imported)
    for call in ast.walk(tree):
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        if isinstance(call, ast.Call) and re.fullmatch(r"[\w.]+", name) and name.split(".")[0] in imported:
            function = eval(name, imported)
            if not inspect.isbuiltin(function):
                keywords = {word.arg: word for word in call.keywords if word.arg}
                inspect.signature(function).bind_partial(*call.args, **keywords)


def check_configuration(values: dict[str, Any]) -> None:
    """Names and types of a part of a run configuration are known to a job."""
    names = set(values.get("ops", ()))
    job = next(job for job in JOBS if names <= assets_of(job.name))
    try:
        dg.validate_run_config(defs.resolve_job_def(job.name), values)
    except dg.DagsterInvalidConfigError as error:
        wrong = [one.message for one in error.errors if not one.reason.name.startswith("MISSING_REQUIRED")]
        assert not wrong, wrong


@of_pages("yaml")
def test_yaml_of_the_pages(text: str) -> None:
    values = yaml.safe_load(text)
    if "type" in values:
        assert values["type"] == "pipelines.components.ConfiguredJob"
        ConfiguredJob(**values["attributes"])
    elif values.keys() <= {"resources", "ops"}:
        check_configuration(values)
    else:
        check_configuration({"ops": values})


def test_yaml_in_sentences() -> None:
    for _, code in inline_code():
        name = code.partition(":")[0]
        if re.fullmatch(r"\w+: ?\{.*\}", code) and (name in ASSETS or name in RESOURCES):
            check_configuration({"ops" if name in ASSETS else "resources": yaml.safe_load(code)})


@of_pages("json")
def test_json_of_the_pages(text: str, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_text(text)
    values = read_description(tmp_path / "training.json")
    TrainingConfig(**values["config"])
    MethodConfig(**values["method_config"])
