"""Groups by what the base model and answers show, from the corpus to new documents, and what a fingerprint holds."""

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipelines.definitions import build_defs
from pipelines.defs.clusters.num_clusters import ChoiceConfig
from pipelines.defs.corpus.document_features import FeaturesConfig, refuse_settings
from pipelines.store.io_manager import ArtifactStore
from tests.pipelines.small_corpus import corpus_ops, resources

JOINT = {"config": {"kind": "joint", "template": "plain", "max_length": 64}}


def run(
    job: str, given: dict[str, Any], ops: dict[str, Any], *, raises: bool = True, only: list[str] | None = None
) -> dg.ExecuteInProcessResult:
    config = {"resources": {name: given[name] for name in ("store", "base_model")}, "ops": ops}
    found = build_defs().resolve_job_def(job)
    return found.execute_in_process(
        run_config=config, raise_on_error=raises, asset_selection=only and [dg.AssetKey(name) for name in only]
    )


def ops_of(folder: Path) -> dict[str, Any]:
    ops = corpus_ops(folder)
    del ops["tokenised_documents"]
    return ops | {"document_features": JOINT, "expert_assignment": {"config": {"grouping": "clusters"}}}


def test_from_the_corpus_to_new_documents(tmp_path: Path) -> None:
    given = resources(tmp_path)
    first = run("corpus", given, ops_of(tmp_path))
    assert first.success
    store = ArtifactStore(directory=str(tmp_path / "store"))
    features = store.last("document_features")
    assert features.array("features").shape[1] == 128 + 64 + 64
    assert features.array("features").any(axis=1).all()
    # What chooses an expert reads text alone, and says how often it is right.
    assignment = store.last("expert_assignment")
    assert (assignment.folder / "group_model" / "classifier.json").exists()
    assert assignment.json("expert_assignment")["held_out_accuracy"] > 0.8
    assert assignment.json("expert_assignment")["found"]["interval"][1] > 0.8
    # New documents are read by the base model; the corpus's own get their own clusters.
    new = {"new_document_labels": {"config": {"sources": _sources(tmp_path)}}}
    run("assign", given | {"store": {"config": {**given["store"]["config"], "from_run": first.run_id}}}, new)
    labels = store.last("new_document_labels").read("labels")
    own = store.last("cluster_labels").read("labels")
    both = own.join(labels, on="document_id")
    assert len(both) == len(own)
    assert (both["cluster"] == both["cluster_right"]).mean() > 0.99


def test_clusters_that_prompts_do_not_tell_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.experts.grouping.LEAST_FOUND", 1.01)
    # Sources that no prompt tells, so that clusters are what is left.
    ops = ops_of(tmp_path) | {"expert_assignment": {"config": {"min_accuracy": 1.0, "max_experts": 1}}}
    needed = ["raw_documents", "corpus_documents", "document_features", "cluster_sweep", "num_clusters"]
    needed += ["cluster_labels", "expert_assignment"]
    given = {name: ops[name] for name in needed if name in ops}
    failed = run("corpus", resources(tmp_path), given, raises=False, only=needed)
    (failure,) = [event for event in failed.all_events if event.is_step_failure]
    assert failure.step_key == "expert_assignment"
    assert "which is less than 101%" in str(failure.step_failure_data.error)
    assert "kind: tfidf" in str(failure.step_failure_data.error)


@pytest.mark.parametrize(
    ("config", "kind", "has_tail"),
    [
        ({}, "joint", True),
        ({}, "tfidf", False),
        ({}, "hidden_state", False),
        ({"value": 4}, "joint", False),
        ({"tail": False}, "joint", False),
        ({"tail": True}, "tfidf", True),
    ],
)
def test_joint_features_have_a_tail_by_default(config: dict[str, Any], kind: str, has_tail: bool) -> None:
    assert ChoiceConfig(**config).has_tail(kind) is has_tail


def test_the_base_model_counts_where_it_is_read(tmp_path: Path) -> None:
    given = resources(tmp_path)
    config = given["base_model"]["config"]
    copy = shutil.copytree(config["name"], tmp_path / "copy")
    other = given | {"base_model": {"config": {**config, "name": str(copy)}}}
    names = {}
    for kind in ("hidden_state", "tfidf"):
        ops = ops_of(tmp_path) | {"document_features": {"config": {"kind": kind}}}
        for which, resource in (("one", given), ("other", other)):
            needed = ["raw_documents", "corpus_documents", "document_features"]
            run("corpus", resource, {name: ops[name] for name in needed if name in ops}, only=needed)
            store = ArtifactStore(directory=str(tmp_path / "store"))
            names[kind, which] = store.last("document_features").fingerprint
    assert names["tfidf", "one"] == names["tfidf", "other"]
    assert names["hidden_state", "one"] != names["hidden_state", "other"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"kind": "hidden_state", "text": "both"},
            "expected text `prompt` with kind `hidden_state`, which reads the end",
        ),
        (
            {"kind": "joint_words", "text": "completion"},
            "expected text `prompt` with kind `joint_words`, which reads the",
        ),
        ({"kind": "joint", "n_components": 8}, "expected no n_components with kind `joint`"),
    ],
)
def test_what_a_kind_does_not_have_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_settings(FeaturesConfig(**given))


def _sources(folder: Path) -> list[dict[str, Any]]:
    return corpus_ops(folder)["raw_documents"]["config"]["sources"]
