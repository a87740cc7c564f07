"""Shared by all tests: where real corpora are, and small guards."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

import tests.shape_checker  # noqa: F401  (the hook below finds it by its name)

# The shapes in the signatures of these modules are checked at each call, in all tests. The hook comes before imports.
SHAPES_CHECKED = [
    "analysis.adapters.permutation",
    "analysis.adapters.projection",
    "analysis.adapters.subspace",
    "analysis.clusters.kmeans.sweep",
    "analysis.clusters.choice.structure",
    "analysis.features.lsa",
    "hydralora.evaluation.answer_loss",
    "hydralora.evaluation.chunked_loss",
    "hydralora.gates.losses",
]  # `hydralora.ops.eager` is left out, because torch compiles it: see tests/hydralora/ops/test_eager.py
install_import_hook(SHAPES_CHECKED, "tests.shape_checker.check")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_corpora() -> Path:
    """Folder of real corpora as Parquet (`HYDRALORA_CORPORA`, default `../shared/corpora`); skips if absent."""
    folder = Path(os.environ.get("HYDRALORA_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
    if not folder.is_dir():
        pytest.skip(f"no corpora at {folder}; set HYDRALORA_CORPORA")
    return folder
