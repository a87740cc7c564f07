"""Remembers where the weights of a loaded base model come from, so that their fingerprint is computed only once.

`fingerprints.json` in the cache folder holds the fingerprints. The key is the files from which the model was loaded
(path, size and time of the last change), or its commit on the hub.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from hydralora.base_model.embedded import default_cache_dir
from hydralora.base_model.fingerprint import weights_fingerprint
from hydralora.base_model.unchanged import Traces, traces

_FILE = "fingerprints.json"
_MOST = 100  # entries; the oldest are removed first
_ATTRIBUTE = "_hydralora_source"


@dataclasses.dataclass(frozen=True)
class Source:
    """The source of a model's weights, and their traces right after loading."""

    key: str
    traces: Traces


def remember_source(model: Any, path: str, *, quantization: str | None) -> None:
    """Store on a newly loaded model where it comes from; nothing if the weights have no permanent name."""
    import transformers

    origin = _origin(Path(path), getattr(model.config, "_commit_hash", None))
    if origin is None:
        return
    kind = [str(model.dtype), quantization, transformers.__version__, torch.__version__]
    key = hashlib.blake2b(json.dumps([origin, kind]).encode(), digest_size=16).hexdigest()
    setattr(model, _ATTRIBUTE, Source(key, traces(model)))


def remembered_fingerprint(model: Any) -> str:
    """`weights_fingerprint`, looked up if the model is unchanged since loading and its fingerprint is known."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    source: Source | None = getattr(base, _ATTRIBUTE, None)
    if source is None or traces(base) != source.traces:
        return weights_fingerprint(model)
    known = _read()
    if source.key not in known:
        known = {**known, source.key: weights_fingerprint(model)}
        _write(dict(list(known.items())[-_MOST:]))
    return known[source.key]


def _origin(folder: Path, commit: str | None) -> Any:
    if not folder.is_dir():
        return None if commit is None else [str(folder), commit]
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".json"))
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _read() -> dict[str, str]:
    try:
        values = json.loads((default_cache_dir() / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write(values: dict[str, str]) -> None:
    """Write the file atomically. An error is ignored, because a missing cache only costs time."""
    folder = default_cache_dir()
    temporary = folder / f".{_FILE}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(values, indent=1) + "\n")
        os.replace(temporary, folder / _FILE)
    except OSError:
        temporary.unlink(missing_ok=True)
