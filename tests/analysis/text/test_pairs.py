import polars as pl

from analysis.text.pairs import joined, parts


def test_a_pair_comes_apart_again() -> None:
    documents = pl.DataFrame({"prompt": ["river water", "engine"], "completion": ["yes indeed", ""]})
    prompts, answers = parts(documents.select(joined(pl.col("prompt"), pl.col("completion")))["prompt"])
    assert prompts.to_list() == documents["prompt"].to_list()
    assert answers.to_list() == documents["completion"].to_list()


def test_a_text_without_a_separator_is_a_prompt_with_an_empty_answer() -> None:
    assert [part.to_list() for part in parts(pl.Series(["no answer yet", ""]))] == [["no answer yet", ""], ["", ""]]
