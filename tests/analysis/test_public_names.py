"""The public face of `analysis`: every name is there, documented, and imported only when it is used."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import analysis

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", analysis.__all__)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(analysis, name)
    assert inspect.getdoc(value)
    assert value.__module__.startswith("analysis.")
    assert name in dir(analysis)


def test_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    tree = ast.parse(Path(analysis.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    typed = {alias.name: node.module for node in imports for alias in node.names}
    assert typed == {name: f"analysis.{home}" for name, home in analysis._HOME_OF.items()}
    assert sorted(typed) == sorted(analysis.__all__)


def test_importing_the_package_loads_none_of_its_modules() -> None:
    code = "import sys, analysis; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(name for name in loaded if name.startswith("analysis")) == ["analysis"]
    assert "numpy" not in loaded


def test_the_module_that_cards_of_saved_adapters_print_is_the_new_one_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"analysis\.prompt_gates is now analysis\.experts\.prompt_gates"):
        old = importlib.import_module("analysis.prompt_gates")
    assert old is importlib.import_module("analysis.experts.prompt_gates")
    assert "prompt_gates" not in analysis.__all__  # importing the module would put it in the place of that name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'sweep_k_means'"):
        _ = analysis.sweep_k_means


def test_product_code_imports_from_the_modules_themselves() -> None:
    # A code version would not follow a name through the lazy face.
    for package in ("analysis", "pipelines"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
                assert not (isinstance(node, ast.Import) and "analysis" in names), path
                if isinstance(node, ast.ImportFrom) and node.module == "analysis":
                    assert not set(names) & set(analysis.__all__), path
