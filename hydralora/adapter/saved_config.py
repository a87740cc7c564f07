"""Writes `adapter_config.json` with the same bytes in every process."""

import json
from pathlib import Path

_SETS = ("target_modules", "exclude_modules", "feedforward_modules")
"""PEFT keeps these fields as sets and writes them in hash order, which differs between processes."""


def sort_adapter_configs(folder: Path) -> None:
    """Sort the fields that PEFT wrote from sets, in every `adapter_config.json` under a folder."""
    for path in sorted(folder.rglob("adapter_config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        names = {key: sorted(config[key]) for key in _SETS if isinstance(config.get(key), list)}
        path.write_text(json.dumps({**config, **names}, indent=2, sort_keys=True), encoding="utf-8")
