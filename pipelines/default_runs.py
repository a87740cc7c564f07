"""Default configurations of jobs, so that one click on Launch runs them: the quickstart, cut to what a job has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.run_configuration import read_configuration

QUICKSTART = Path(__file__).parent / "configs" / "quickstart.yaml"
CORPUS = (
    *("raw_documents", "corpus_documents", "document_features", "cluster_sweep", "num_clusters", "cluster_labels"),
    "expert_assignment",
)
TOKENS = "tokenised_documents"


def hydralora_run() -> dict[str, Any]:
    """The quickstart."""
    return read_configuration(QUICKSTART)


def corpus_run() -> dict[str, Any]:
    """The corpus of the quickstart."""
    return _cut(hydralora_run(), CORPUS, resources=("store",))


def compare_run() -> dict[str, Any]:
    """The default method and a LoRA of the same size, on the corpus of the quickstart."""
    values = _cut(hydralora_run(), (*CORPUS, TOKENS), resources=("store", "base_model", "recipe"))
    methods = {"methods": ["hydralora_sequence", "lora_matched"], "reference": "lora_matched"}
    return {**values, "ops": {**values["ops"], "method_comparison": {"config": methods}}}


def _cut(values: Mapping[str, Any], ops: tuple[str, ...], resources: tuple[str, ...]) -> dict[str, Any]:
    """The configuration for some assets and resources."""
    return {
        **values,
        "ops": {name: value for name, value in values["ops"].items() if name in ops},
        "resources": {name: value for name, value in values["resources"].items() if name in resources},
    }
