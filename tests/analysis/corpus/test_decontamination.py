"""Texts of evaluation sets are found in documents, against sets of thirteen words."""

from pathlib import Path

import polars as pl

from analysis.corpus.decontamination import MAX_DOCUMENTS, NGRAM_WORDS, contaminated
from analysis.corpus.deduplication import Batches
from tests.analysis.corpus.test_deduplication import reference_shingles


def reference_contaminated(training: list[str], evaluation: dict[str, list[str]]) -> dict[int, str]:
    windows = [reference_shingles(text, NGRAM_WORDS, False, True) for text in training]
    counts: dict[tuple[str, ...], int] = {}
    for found in windows:
        for window in found:
            counts[window] = counts.get(window, 0) + 1
    result: dict[int, str] = {}
    for name, texts in evaluation.items():
        wanted = set().union(*(reference_shingles(text, NGRAM_WORDS, False, True) for text in texts))
        for row, found in enumerate(windows):
            if row not in result and any(counts[window] <= MAX_DOCUMENTS for window in found & wanted):
                result[row] = name
    return result


def documents(texts: list[str], prompts: list[str] | None = None) -> Batches:
    """Documents with these texts; without prompts, nothing is asked in them."""
    table = pl.DataFrame({"text": texts, "prompt": prompts or [""] * len(texts)}, schema_overrides={"text": pl.String})
    return lambda: table.with_row_index("row").iter_slices(100)


def test_decontamination_equals_sets_of_thirteen_words(shared_corpora: Path) -> None:
    def texts(name: str) -> list[str]:
        table = pl.read_parquet(shared_corpora / f"{name}.parquet")
        return (table["instruction"] + "\n" + table["input"] + "\n" + table["output"]).to_list()

    training = texts("mbxp_train")[:1_500] + texts("gsm8k_train")[:500]
    evaluation = {"mbpp": texts("mbpp_test"), "mbxp": texts("mbxp_test"), "gsm8k": texts("gsm8k_test")}
    expected = reference_contaminated(training, evaluation)
    found = contaminated(documents(training), {name: documents(block)() for name, block in evaluation.items()})
    assert dict(found.iter_rows()) == expected
    assert set(expected.values()) >= {"mbpp", "mbxp"}


def test_a_template_in_many_documents_does_not_count() -> None:
    template = " ".join(f"w{i}" for i in range(20))
    exam = {"exam": list(documents([template])())}
    few, many = ([f"{template} and {i}" for i in range(n)] for n in (MAX_DOCUMENTS, MAX_DOCUMENTS + 1))
    assert len(contaminated(documents(few), exam)) == MAX_DOCUMENTS
    assert contaminated(documents(many), exam).is_empty()


def test_a_short_evaluation_text_is_compared_as_a_whole() -> None:
    exam = {"exam": list(documents(["What is two plus two?", ""])())}
    training = ["what is TWO plus two", "what is two plus two and three", ""]
    assert contaminated(documents(training), exam).rows() == [(0, "exam")]
    assert contaminated(documents(training), {}).is_empty()


def test_a_short_question_is_a_leak_whatever_its_answer() -> None:
    questions = ["What is the capital of Peru?", "Which planet is red?", "法国的首都是哪里？"]
    exam = {"exam": list(documents([f"{question}\nIt is hard to say." for question in questions], questions)())}
    asked = [
        "what is the CAPITAL of Peru",
        "What is the capital of Chad?",
        "法国的首都是哪里",
        "Which planet is red? Why?",
    ]
    found = contaminated(documents([f"{question}\nA long answer." for question in asked], asked), exam)
    assert found["row"].to_list() == [0, 2]
    many = ["Which planet is red?"] * (MAX_DOCUMENTS + 1)
    answered = [f"{question}\nAnswer {number}." for number, question in enumerate(many)]
    assert contaminated(documents(answered, many), exam).is_empty()
