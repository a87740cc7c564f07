"""The method as a member of PEFT's closed enumeration, and what a process sees that has not imported it."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PeftConfig
from peft.utils import PeftType

from hydralora import HydraLoraConfig, HydraLoraModel
from hydralora.adapter.config import EARLIER_PEFT_TYPE, HOW_TO_LOAD
from hydralora.adapter.registration import add_peft_type, register


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
    register(HydraLoraConfig, HydraLoraModel, EARLIER_PEFT_TYPE)
    assert list(PeftType) == before
    with pytest.raises(RuntimeError, match=r"PEFT already has a method HYDRALORA .*HydraLoraConfig.*second package"):
        register(LoraConfig, HydraLoraModel, EARLIER_PEFT_TYPE)


def test_the_peft_type_survives_every_round_trip(tmp_path: Path) -> None:
    config = HydraLoraConfig(r=2, target_modules=["q_proj"])
    assert config.to_dict()["peft_type"] == "HYDRALORA"
    assert PeftConfig.from_peft_type(**config.to_dict()).to_dict() == config.to_dict()
    config.save_pretrained(str(tmp_path))
    assert PeftConfig.from_pretrained(str(tmp_path)).to_dict() == config.to_dict()
    assert PeftConfig._get_peft_type(str(tmp_path)) == "HYDRALORA"


def test_adapters_of_earlier_versions_load(hydra_llama: Any, tmp_path: Path) -> None:
    hydra_llama().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    saved = {key: value for key, value in json.loads(path.read_text()).items() if key != "how_to_load"}
    path.write_text(json.dumps({**saved, "peft_type": EARLIER_PEFT_TYPE}))
    assert isinstance(PeftConfig.from_pretrained(str(tmp_path)), HydraLoraConfig)


def test_before_and_after_the_import(hydra_llama: Any, tmp_path: Path) -> None:
    """Before it, PEFT names the unknown method, and the file says how to load it. It brings nothing that PEFT does not
    bring, and no other package of the project; a second import works.
    """
    hydra_llama().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["how_to_load"] == HOW_TO_LOAD
    code = """
import importlib, sys
import peft, torch, transformers.pytorch_utils
before = set(sys.modules)
try:
    peft.PeftConfig.from_pretrained(sys.argv[1])
    raise SystemExit("expected an error")
except KeyError as error:
    assert str(error) == "'HYDRALORA'", error
import hydralora
assert type(peft.PeftConfig.from_pretrained(sys.argv[1])) is hydralora.HydraLoraConfig
heavy = {"datasets", "trl", "matplotlib", "pandas", "lm_eval"} & (set(sys.modules) - before)
other_layers = {"dagster", "polars", "sklearn", "analysis", "pipelines"} & set(sys.modules)
assert not heavy | other_layers, heavy | other_layers
importlib.reload(hydralora)
for name in [name for name in sys.modules if name.split(".")[0] == "hydralora"]:
    del sys.modules[name]
import hydralora
from peft import get_peft_model
config = hydralora.HydraLoraConfig(target_modules=["0"], router_input="uniform")
model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), config)
assert type(model.base_model) is hydralora.HydraLoraModel
hydralora.to_lora(model)
print("fine")
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.stdout.strip() == "fine", result.stderr
