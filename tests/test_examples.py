"""The examples of docstrings run, and the Python of the README names what is there."""

import ast
import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = (
    "analysis.clusters.kmeans",
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


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
def test_python_of_the_readme(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    tiny = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, bos_token_id=1
    )
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda _: LlamaForCausalLM(tiny))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(ast.parse(block), "README.md", "exec"), names)
    assert any(tmp_path.iterdir())
    names["model"](input_ids=torch.ones(2, 3, dtype=torch.int64), expert_gates=torch.eye(6)[:2])  # as a comment says
