"""The direction of imports, seen from outside: what a fresh interpreter has loaded after importing a package.

For `hydralora` see tests/hydralora/adapter/test_registration.py.
"""

import json
import subprocess
import sys

import pytest


def modules_after(statement: str) -> set[str]:
    """Top-level module names in `sys.modules` after running `statement` in a new interpreter."""
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import analysis", {"torch", "transformers", "peft", "dagster", "hydralora", "pipelines", "umap"}),
        ("import pipelines.definitions", {"torch", "transformers", "peft", "umap", "sentence_transformers"}),
    ],
)
def test_import_stays_in_its_layer(statement: str, forbidden: set[str]) -> None:
    assert not modules_after(statement) & forbidden
