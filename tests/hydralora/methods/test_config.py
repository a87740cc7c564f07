"""Settings of methods mean the same from Python, JSON and YAML."""

import json
import subprocess
import sys

import pytest

from hydralora.methods import MethodConfig, MethodError


@pytest.mark.parametrize("targets", ["all-linear", ["all-linear"], ("all-linear",)])
def test_all_linear_is_the_same_alone_and_in_a_list(targets: str | list[str] | tuple[str, ...]) -> None:
    assert MethodConfig(target_modules=targets) == MethodConfig(target_modules="all-linear")  # type: ignore[arg-type]


def test_lists_of_json_are_tuples() -> None:
    values = json.loads('{"target_modules": ["up_proj", "down_proj"], "layers_to_transform": [4, 7]}')
    assert MethodConfig(**values) == MethodConfig(target_modules=("up_proj", "down_proj"), layers_to_transform=(4, 7))


def test_all_linear_beside_names_is_refused() -> None:
    with pytest.raises(MethodError, match=r"all-linear alone in target_modules, got \['k_proj', 'all-linear'\]"):
        MethodConfig(target_modules=("k_proj", "all-linear"))


def test_all_linear_with_chosen_layers_is_refused() -> None:
    with pytest.raises(MethodError, match="layers_to_transform"):
        MethodConfig(target_modules=("all-linear",), layers_to_transform=(1,))


@pytest.mark.parametrize("module", ["methods", "training"])
def test_the_configuration_needs_only_the_standard_library(module: str) -> None:
    code = f"import runpy, sys; runpy.run_path('hydralora/{module}/config.py'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
