import numpy as np
import polars as pl
import pytest

from analysis.adapters.association import gate_association
from analysis.adapters.routing import DocumentGates, analyse_routing, given_specialisation, specialisation
from tests.analysis.synthetic_run import MODULES, routing, routing_tables

LABELS = np.arange(120) % 4
NO_SIMILARITY = pl.DataFrame(schema={"layer": int, "module": str, "expert_a": int, "expert_b": int, "b_cosine": float})


@pytest.mark.parametrize(("follow", "answer"), [(2.0, "yes"), (0.0, "no")])
def test_specialisation_is_told(follow: float, answer: str):
    assert routing(LABELS.tolist(), follow=follow).specialised == answer


def test_gates_that_move_but_not_with_clusters_are_no_specialisation():
    gates, entropy, document_gates = routing_tables(LABELS)
    shuffled = np.random.default_rng(3).permutation(LABELS)
    documents = pl.DataFrame({"document_id": list(document_gates.document_ids), "cluster": shuffled})
    found = analyse_routing(gates, entropy, document_gates=document_gates, documents=documents, n_permutations=99)
    assert found.specialised == "no"


def test_without_document_gates_it_cannot_be_told():
    gates, entropy, _ = routing_tables(LABELS)
    assert analyse_routing(gates, entropy).specialised == "cannot tell"


def test_experts_know_their_cluster_module_by_module():
    found = routing(LABELS.tolist())
    first = found.experts.filter((pl.col("layer") == 0) & (pl.col("module") == next(iter(MODULES))))
    assert first["cluster"].to_list() == [0, 1, 2, 3]
    second = found.experts.filter((pl.col("layer") == 0) & (pl.col("module") == list(MODULES)[1]))
    assert second["cluster"].to_list() == [3, 0, 1, 2]  # the synthetic router turns the experts by one each module
    assert (found.experts["lift"] > 1.5).all()
    assert first["top_terms"].to_list()[2] == ["term", "of 2"]


def test_groups_may_be_words_and_documents_may_lack_them():
    gates, entropy, document_gates = routing_tables(LABELS)
    source = [None if i < 5 else f"source {label}" for i, label in enumerate(LABELS)]
    documents = pl.DataFrame({"document_id": list(document_gates.document_ids), "source": source})
    found = analyse_routing(gates, entropy, document_gates=document_gates, documents=documents, n_permutations=99)
    overall = found.association.filter(pl.col("layer").is_null())
    assert overall["group_kind"].to_list() == ["source"]
    assert overall["p_value"][0] == pytest.approx(0.01)
    assert len(found.association) == 1 + 4 * len(MODULES)


def similar_experts(cosine: float) -> pl.DataFrame:
    pairs = [(0, "q_proj", a, b, cosine) for a, b in ((0, 1), (0, 2), (1, 2))]
    return pl.DataFrame(pairs, schema=["layer", "module", "expert_a", "expert_b", "b_cosine"], orient="row")


@pytest.mark.parametrize(("cosine", "answer"), [(0.97, "no"), (0.5, "yes")])
def test_gates_that_follow_clusters_do_not_make_equal_experts_specialists(cosine: float, answer: str):
    gates, entropy, document_gates = routing_tables(LABELS)
    association = {"cluster": gate_association(document_gates.gates, LABELS, n_permutations=99)}
    usage = gates.filter(pl.col("group_kind") == "all").rename({"gate": "usage"})
    told, reason = specialisation(entropy, association, usage, similar_experts(cosine))
    assert told == answer
    assert reason.startswith("The experts are nearly the same") == (answer == "no")


@pytest.mark.parametrize(("cosine", "answer"), [(0.97, "no"), (0.2, "yes")])
def test_gates_that_are_given_follow_their_groups_by_construction(cosine: float, answer: str):
    told, reason = given_specialisation("source", similar_experts(cosine))
    assert told == answer
    assert "goes to the expert of its source" in reason
    assert f"{cosine:.3f}" in reason
    assert given_specialisation("task", NO_SIMILARITY)[0] == "cannot tell"


def test_a_rare_source_is_no_dead_expert():
    """The same hard gates with a router are alarming: one expert has nearly all the use, the other is dead."""
    gates = pl.DataFrame(
        {"layer": 0, "module": "q", "expert": [0, 1], "group_kind": "all", "group": "all", "gate": [0.99, 0.01]}
    )
    entropy = pl.DataFrame({"layer": [0], "module": ["q"], "entropy": [0.0]})
    assert analyse_routing(gates, entropy).alarms
    given = analyse_routing(gates, entropy, given_by="source")
    assert given.alarms == ()
    assert given.reason.startswith("Gates are given")


def test_one_expert_is_an_ordinary_lora():
    gates = pl.DataFrame({"layer": [0], "module": ["q"], "expert": [0], "group_kind": ["all"], "group": ["all"],
                          "gate": [1.0], "n_tokens": [9]})  # fmt: skip
    entropy = pl.DataFrame({"layer": [0], "module": ["q"], "entropy": [0.0]})
    found = analyse_routing(gates, entropy)
    assert (found.specialised, found.alarms) == ("no", ())


def test_bad_tables_are_refused():
    gates, entropy, document_gates = routing_tables(LABELS)
    with pytest.raises(ValueError, match=r"gates: expected columns .* got no gate"):
        analyse_routing(gates.drop("gate"), entropy)
    with pytest.raises(ValueError, match="group_kind 'all', got none"):
        analyse_routing(gates.filter(pl.col("group_kind") == "cluster"), entropy)
    with pytest.raises(ValueError, match="documents: expected document_id"):
        analyse_routing(gates, entropy, document_gates=document_gates)
    with pytest.raises(ValueError, match=r"expected shape \[1, 2, N\], got \[3, 2, 2\]"):
        DocumentGates(np.ones((3, 2, 2), np.float32), [(0, "q"), (1, "q")], ["a"])
