"""The same seed gives the same files in another process, whose strings have other hashes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hydralora.adapter.card import sort_adapter_configs
from tests.hydralora.small import save_run

TRAIN = """
import sys
from pathlib import Path
from hydralora.training.run import run_from_json
for path in sys.argv[1:]:
    run_from_json(Path(path))
"""
KINDS = ("LORA", "HYDRALORA", "IA3")
NAMES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, bytes]]]:
    """The files of each kind from two processes: importing costs more than training."""
    folder = tmp_path_factory.mktemp("same_bytes")
    values = json.loads(save_run(folder, max_steps=3).read_text())
    for seed in ("1", "2"):
        paths = []
        for kind in KINDS:
            peft = {"peft_type": kind, "task_type": "CAUSAL_LM", "target_modules": NAMES}
            peft |= {"feedforward_modules": NAMES[-3:]} if kind == "IA3" else {"r": 2}  # type: ignore[dict-item]
            paths.append(folder / f"{kind}{seed}.json")
            paths[-1].write_text(json.dumps({**values, "folder": str(folder / kind / seed), "peft_config": peft}))
        subprocess.run([sys.executable, "-c", TRAIN, *paths], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    return {kind: [files(folder / kind / seed) for seed in ("1", "2")] for kind in KINDS}


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
