"""Clusters of two corpora are matched by what they hold, not by their numbers."""

import pytest

import analysis
from analysis.answer.corpus_comparison import compare_corpora
from tests.analysis.answer.small_corpus import GARDEN, LEDGER, write_records

HARBOUR = ["anchor", "harbour", "sailor", "rudder", "mast", "tide", "deck", "crew", "cargo", "knot", "wharf"]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    first = [write_records(folder / "a.jsonl", GARDEN), write_records(folder / "b.jsonl", LEDGER, seed=1)]
    second = [
        write_records(folder / "c.jsonl", LEDGER, n=60, seed=2),
        write_records(folder / "d.jsonl", HARBOUR, n=120, seed=3),
    ]
    return [analysis.analyze(files, n_samples=0) for files in (first, second)]


def test_shared_gone_and_new_clusters(corpora):
    found = compare_corpora(*corpora)
    pair, gone, new = found.table.iter_rows(named=True)
    assert set(pair["terms"]) <= set(LEDGER)
    assert pair["overlap"] > 0.3
    assert (pair["n_first"], pair["n_second"]) == (120, 60)
    assert pair["share_second"] == pytest.approx(1 / 3)
    assert set(gone["terms"]) <= set(GARDEN)
    assert (gone["second"], gone["n_second"]) == (None, 0)
    assert set(new["terms"]) <= set(HARBOUR)
    assert (new["first"], new["n_first"]) == (None, 0)
    assert 0 <= found.mix_shift <= 1


def test_a_corpus_is_like_itself(corpora):
    found = compare_corpora(corpora[0], corpora[0])
    assert found.table["first"].to_list() == found.table["second"].to_list()
    assert found.table["overlap"].min() >= 0.9  # of its own documents a model knows 95%
    assert found.mix_shift == 0
    assert found.to_dict()["clusters"][0]["n_first"] == 120
