"""The direction of imports, seen from outside: what a fresh interpreter has loaded after importing a package.

For `hydralora` see tests/hydralora/adapter/test_registration.py, for `pipelines` tests/pipelines/test_bad_inputs.py.
"""

import json
import subprocess
import sys


def modules_after(statement: str) -> set[str]:
    """Top-level module names in `sys.modules` after running `statement` in a new interpreter."""
    code = f"{statement}\nimport sys, json; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_analysis_stays_in_its_layer() -> None:
    forbidden = {"torch", "transformers", "peft", "dagster", "hydralora", "pipelines", "umap"}
    assert not modules_after("import analysis") & forbidden
