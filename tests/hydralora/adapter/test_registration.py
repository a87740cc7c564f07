"""The method as a member of PEFT's closed enumeration, and what a process sees that has not imported it."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from peft.utils import PeftType

from hydralora import HydraLoraConfig, HydraLoraModel
from hydralora.adapter.config import SAVED_PEFT_TYPE
from hydralora.adapter.registration import add_peft_type, register


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)


def test_a_real_member_of_the_enumeration() -> None:
    member = PeftType.HYDRALORA
    assert isinstance(member, PeftType)
    assert member == "HYDRALORA"
    assert member.value == member.name == "HYDRALORA"
    assert str(member) == "PeftType.HYDRALORA"
    assert PeftType("HYDRALORA") is PeftType["HYDRALORA"] is member
    assert list(PeftType).count(member) == 1
    assert copy.deepcopy(member) is member
    assert pickle.loads(pickle.dumps(member)) is member


def test_a_second_registration_does_nothing_and_another_class_is_refused() -> None:
    before = list(PeftType)
    add_peft_type()
    register(HydraLoraConfig, HydraLoraModel, SAVED_PEFT_TYPE)
    assert list(PeftType) == before
    with pytest.raises(RuntimeError, match=r"PEFT already has a method HYDRALORA .*HydraLoraConfig.*second package"):
        register(LoraConfig, HydraLoraModel, SAVED_PEFT_TYPE)


def test_a_process_without_the_import_is_told_so(hydra_llama: Any, tmp_path: Path) -> None:
    hydra_llama().save_pretrained(tmp_path)
    result = run(f"from peft import PeftConfig; PeftConfig.from_pretrained({str(tmp_path)!r})")
    assert result.returncode != 0
    assert result.stderr.strip().splitlines()[-1] == f"KeyError: {SAVED_PEFT_TYPE!r}"


def test_import_brings_only_what_peft_brings() -> None:
    """Nothing heavy beyond PEFT itself, whose import is what registers the method."""
    heavy = "('datasets', 'polars', 'sklearn', 'dagster', 'trl', 'matplotlib', 'pandas', 'lm_eval')"
    code = f"""
import sys, peft, transformers.pytorch_utils
before = set(sys.modules)
import hydralora
print(sorted(name for name in {heavy} if name in set(sys.modules) - before))
"""
    assert run(code).stdout.strip() == "[]"
