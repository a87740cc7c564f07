"""The same seed gives the same files in another process, whose strings have other hashes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hydralora.adapter.card import sort_adapter_configs
from hydralora.training.run import run_from_json
from tests.hydralora.small import save_run

TRAIN = """
import sys, torch
from pathlib import Path
from hydralora.training.run import run_from_json
torch.set_num_threads(int(sys.argv[1]))
for path in sys.argv[2:]:
    run_from_json(Path(path))
"""
KINDS = ("LORA", "HYDRALORA", "IA3")
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, bytes]]]:
    """The files of each kind from this process and another one: importing costs more than training."""
    folder = tmp_path_factory.mktemp("same_bytes")
    values = json.loads(save_run(folder, max_steps=3).read_text())
    paths: dict[str, list[Path]] = {"here": [], "there": []}
    for where, of_kinds in paths.items():
        for kind in KINDS:
            peft = {"peft_type": kind, "task_type": "CAUSAL_LM", "target_modules": NAMES}
            peft |= {"feedforward_modules": NAMES[-3:]} if kind == "IA3" else {"r": 2}  # type: ignore[dict-item]
            of_kinds.append(folder / f"{kind}_{where}.json")
            of_kinds[-1].write_text(json.dumps({**values, "folder": str(folder / kind / where), "peft_config": peft}))
    for path in paths["here"]:
        run_from_json(path)
    env = {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    command = [sys.executable, "-c", TRAIN, str(torch.get_num_threads()), *map(str, paths["there"])]
    subprocess.run(command, check=True, env=env)
    return {kind: [files(folder / kind / where) for where in paths] for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_files_do_not_depend_on_hashes(trained: dict[str, list[dict[str, bytes]]], kind: str) -> None:
    first, second = written = trained[kind]
    assert first.keys() == second.keys()
    differing = {name for name in first if first[name] != second[name]}
    assert differing <= {"run.json", "curve.jsonl"}  # times and energies
    records = [json.loads(found["run.json"]) for found in written]
    assert records[0]["peft_config"] == records[1]["peft_config"]
    config = json.loads(first["adapter_config.json"])
    assert config["target_modules"] == sorted(NAMES)


def test_only_sets_are_sorted(tmp_path: Path) -> None:
    config = {"target_modules": ["v", "q"], "modules_to_save": ["b", "a"], "layers_to_transform": [2, 1]}
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        (folder / "adapter_config.json").write_text(json.dumps({**config, "exclude_modules": "a|b"}))
    sort_adapter_configs(tmp_path)
    for folder in (tmp_path, tmp_path / "other"):
        found = json.loads((folder / "adapter_config.json").read_text())
        assert found == {**config, "target_modules": ["q", "v"], "exclude_modules": "a|b"}
