"""Who gets which expert, and the plain LoRAs of the domains, on artifacts made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from analysis.clusters.corpus_model import CorpusModel
from analysis.clusters.tail import Communities
from analysis.experts.grouping import Grouping
from analysis.experts.prompt_classifier import PromptClassifier
from analysis.features.lsa import TfidfLsa
from hydralora import HydraLoraConfig
from hydralora.data import TokenisedDocuments
from pipelines.corpus.experts import group_model, held_out_accuracy, with_experts
from pipelines.defs.results.domain_exports import agreement, domain_documents
from pipelines.store.artifacts import Artifact
from pipelines.training.adapters import experts_of
from pipelines.training.documents import labelled_documents
from pipelines.training.exports.exporting import (
    OTHERS,
    DomainDocuments,
    domain_gates,
    folder_names,
    plain_peft_differences,
    write_exports,
)
from pipelines.training.exports.plain_peft import plain_peft_losses
from tests.hydralora.small import small_model

CATS = [f"the cat number {i} sleeps" for i in range(20)]
SHIPS = [f"a ship number {i} sails" for i in range(20)]
# Two of the held-out documents lie: a ship among the cats, and a source that training never saw.
DOCUMENTS = pl.DataFrame(
    {
        "document_id": [f"{i:016x}" for i in range(43)],
        "split": ["train"] * 40 + ["test"] * 3,
        "prompt": [*CATS, *SHIPS, "does the cat sleep", "a ship sails", "a ship sails far"],
        "source": ["cats"] * 20 + ["ships"] * 20 + ["cats", "cats", "planes"],
        "task": None,
        "cluster": [0] * 20 + [1] * 20 + [0, 1, 1],
    },
    schema_overrides={"task": pl.String},
)
TRAINING = DOCUMENTS.filter(pl.col("split") == "train")


def artifact(folder: Path, asset: str, *, config: dict[str, str] | None = None, **tables: pl.DataFrame) -> Artifact:
    folder = folder / asset
    folder.mkdir(exist_ok=True)
    (folder / "artifact.json").write_text(json.dumps({"config": config or {}}))
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    return Artifact(asset, "0", folder)


@pytest.fixture
def grouping() -> Grouping:
    classifier = PromptClassifier().fit(TRAINING["prompt"], TRAINING["source"])
    return Grouping("source", classifier.classes_, "for the test", classifier)


@pytest.fixture
def expert_assignment(tmp_path: Path, grouping: Grouping) -> Artifact:
    assert grouping.classifier is not None
    made = artifact(tmp_path, "expert_assignment", experts=with_experts(DOCUMENTS, grouping, grouping.classifier))
    (made.folder / "expert_assignment.json").write_text(json.dumps({"num_experts": 2}))
    return made


def test_training_takes_the_own_group_and_held_out_documents_what_the_prompt_tells(expert_assignment: Artifact) -> None:
    experts = expert_assignment.read("experts")
    assert experts["expert"].to_list() == [0] * 20 + [1] * 20 + [0, 1, 1]
    assert experts[-2:].select("group", "predicted").rows() == [("cats", "ships"), ("planes", "ships")]
    assert held_out_accuracy(experts) == pytest.approx(1 / 3)
    assert held_out_accuracy(experts.filter(pl.col("split") == "train")) is None


def test_gates_of_documents_are_one_hot(tmp_path: Path, expert_assignment: Artifact) -> None:
    documents = artifact(tmp_path, "corpus_documents", documents=DOCUMENTS.with_columns(completion=pl.lit("yes")))
    labels = artifact(tmp_path, "cluster_labels", labels=DOCUMENTS.select("document_id", "cluster"))
    table = labelled_documents(documents, labels, expert_assignment).collect()
    assert table["expert_gates"].to_list() == [[1.0, 0.0]] * 20 + [[0.0, 1.0]] * 20 + [[1.0, 0.0]] + [[0.0, 1.0]] * 2
    assert "expert_gates" not in labelled_documents(documents, labels).collect_schema()

    held_out = domain_documents(table.lazy(), expert_assignment, "test", max_documents=1)
    assert held_out.select("domain", "found").rows() == [("cats", True), ("planes", False)]
    assert len(domain_documents(table.lazy(), expert_assignment, "train", max_documents=5)) == 10


def test_routers_take_n_from_the_elbow(tmp_path: Path, expert_assignment: Artifact) -> None:
    elbow = artifact(tmp_path, "num_clusters")
    (elbow.folder / "num_clusters.json").write_text(json.dumps({"num_clusters": 5}))
    assert experts_of("hydralora", elbow, expert_assignment) == 5
    assert experts_of("hydralora_sequence", elbow, expert_assignment) == 2


def test_clusters_of_answers_are_read_off_prompts(tmp_path: Path) -> None:
    """Clusters of prompts are the corpus model's; clusters of anything else must be learnt from prompts."""
    labels = artifact(tmp_path, "cluster_labels")
    features = TfidfLsa(2, min_df=1).fit(TRAINING["prompt"])
    CorpusModel(features, features.transform([CATS[0], SHIPS[0]])).save(labels.folder / "corpus_model")
    clusters = Grouping("cluster", ("0", "1"), "for the test")
    of_prompts = artifact(tmp_path, "document_features", config={"kind": "tfidf", "text": "prompt"})
    assert isinstance(group_model(clusters, TRAINING, of_prompts, labels), CorpusModel)
    rows = features.transform([CATS[0], SHIPS[0]])
    with_tail = artifact(tmp_path, "cluster_labels_with_tail")
    communities = Communities(rows, np.array([False, True]))
    CorpusModel(features, rows[:1], communities=communities).save(with_tail.folder / "corpus_model")
    assert isinstance(group_model(clusters, TRAINING, of_prompts, with_tail), PromptClassifier)
    of_answers = artifact(tmp_path, "document_features", config={"kind": "tfidf", "text": "completion"})
    model = group_model(clusters, TRAINING, of_answers, labels)
    assert isinstance(model, PromptClassifier)
    assert model.classes_ == ("0", "1")


def tiny_adapter(folder: Path, **options: Any) -> Any:
    """A HydraLoRA with three experts, away from the identity, on a Llama of two layers saved in `folder`."""
    small_model().save_pretrained(folder)
    base = LlamaForCausalLM.from_pretrained(folder)
    config = HydraLoraConfig(
        r=2, num_experts=3, target_modules=["v_proj"], task_type="CAUSAL_LM", init_weights=False, **options
    )
    return get_peft_model(base, config).eval()


def tiny_documents(gates: list[list[float]] | None) -> DomainDocuments:
    """Two documents of each of three domains; the gates of the last one are those of another domain."""
    rows: dict[str, list[Any]] = {
        "input_ids": [[(7 * i + k) % 50 for k in range(9)] for i in range(6)],
        "answer_start": [4] * 6,
        "length": [9] * 6,
        "source": ["x"] * 6,
    }
    if gates is not None:
        rows["expert_gates"] = gates
    tokens = TokenisedDocuments(Dataset.from_dict(rows), "plain", 16, 0, 0, 0)
    domains = ("a", "a", "b", "b", "c", "c")
    return DomainDocuments(tokens, domains, (True,) * 5 + (False,), pad_token_id=0, batch_tokens=20)


def test_exports_of_given_gates_cost_nothing_where_the_prompt_is_read_right(tmp_path: Path) -> None:
    model = tiny_adapter(tmp_path / "base", router_input="given", shared_expert=True)
    documents = tiny_documents(np.eye(3)[[0, 0, 1, 1, 2, 0]].tolist())
    gates = domain_gates(model, ["a", "b", "c"], lambda: documents)
    assert {domain: gates[domain] for domain in "abc"} == {"a": 0, "b": 1, "c": 2}
    table = write_exports(tmp_path, model, gates, folder_names(list(gates)), documents)
    assert table["domain"].to_list() == ["a", "b", "c", OTHERS]
    assert table["n_documents"].to_list() == [2, 2, 2, 6]
    assert table["found"].to_list() == pytest.approx([1, 1, 0.5, 5 / 6])
    assert table["kl"][:2].to_list() == pytest.approx([0, 0], abs=1e-9)
    assert table["kl"][2] > 1e-4
    assert table["difference"][:2].to_list() == pytest.approx([0, 0], abs=1e-9)
    b = load_file(tmp_path / "b" / "adapter_model.safetensors")
    layer = model.base_model.model.model.layers[1].self_attn.v_proj
    blocks = layer.hydralora_B["default"].weight.unflatten(1, (-1, 2))  # the expert that is always on is the last
    key = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    torch.testing.assert_close(b[key], layer.scaling["default"] * (blocks[:, 1] + blocks[:, 3]))
    others = load_file(tmp_path / "others" / "adapter_model.safetensors")
    torch.testing.assert_close(others[key], layer.scaling["default"] * blocks[:, 3])


def test_gates_of_a_router_are_measured(tmp_path: Path) -> None:
    model = tiny_adapter(tmp_path / "base")
    documents = tiny_documents(None)
    gates = domain_gates(model, ["a", "b", "c"], lambda: documents)
    assert list(gates) == ["a", "b", "c", OTHERS]
    for layer, mean in gates[OTHERS].items():
        assert mean.sum() == pytest.approx(1)
        torch.testing.assert_close(mean, sum(gates[domain][layer] for domain in "abc") / 3)


def test_differences_of_few_tokens_may_be_larger() -> None:
    """Of two tokens rounding is seen as it is, of a hundred it averages out."""
    few = pl.DataFrame({"plain_peft_difference": [0.2, 0.01], "plain_peft_tokens": [2, 100]})
    many = pl.DataFrame({"plain_peft_difference": [-0.2, 0.01], "plain_peft_tokens": [100, 100]})
    assert agreement(few)[0]
    assert not agreement(many)[0]
    assert "0.2 nats" in agreement(many)[1]
    assert agreement(many.drop("plain_peft_difference")) == (True, "not checked", None)


@pytest.mark.slow
def test_peft_alone_gives_the_same_losses(tmp_path: Path) -> None:
    """And the process cannot have used this package: with a HydraLoRA adapter it fails."""
    model = tiny_adapter(tmp_path / "base", router_input="given", shared_expert=True)
    documents = tiny_documents(np.eye(3)[[0, 0, 1, 1, 2, 0]].tolist())
    gates = domain_gates(model, ["a", "b", "c"], lambda: documents)
    table = write_exports(tmp_path, model, gates, folder_names(list(gates)), documents)
    base = str(tmp_path / "base")
    differences = plain_peft_differences(tmp_path, model, gates, table, documents, base, None)
    assert differences["plain_peft_difference"].to_list() == pytest.approx([0] * 4, abs=1e-5)
    model.save_pretrained(tmp_path / "hydra")
    with pytest.raises(RuntimeError, match=r"does not load under peft alone(.|\n)*HYDRALORA"):
        plain_peft_losses(model.get_base_model(), base, None, {"x": tmp_path / "hydra"}, {"x": [([1, 2, 3], 1)]})
