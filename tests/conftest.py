"""Shared by all tests: where real corpora are, and small guards."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_corpora() -> Path:
    """Folder of real corpora as Parquet (`HYDRALORA_CORPORA`, default `../shared/corpora`); skips if absent."""
    folder = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
    if not folder.is_dir():
        pytest.skip(f"no corpora at {folder}; set HYDRALORA_CORPORA")
    return folder
