import importlib
import sys

import pytest

import hydralora
from hydralora.earlier_names import MOVED
from hydralora.methods import MethodConfig, Settings


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_module_is_imported_by_its_old_name(old, new):
    if "triton" in new:
        pytest.importorskip("triton")
    sys.modules.pop(f"hydralora.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"hydralora.{new}"):
        module = importlib.import_module(f"hydralora.{old}")
    assert module is importlib.import_module(f"hydralora.{new}")
    assert module.__spec__.name == f"hydralora.{new}"


def test_old_names_of_functions_and_classes():
    assert hydralora.set_static_gates is hydralora.set_fixed_gates
    assert hydralora.static_gates is hydralora.fixed_gates
    assert Settings is MethodConfig
