"""Predicts the source, task or cluster of a document from its prompt, to give gates to the experts of such groups.

The model is TF-IDF of words and word pairs with multinomial logistic regression. If the groups' prompts differ in their
words, it is right more often than nearest centres in LSA space (docs/results/experts.md). Accuracy matters: a wrong
expert costs more than a right one gains.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from analysis.atomic_files import load_array, load_json, save_array, save_json
from analysis.experts.agreement import Agreement
from analysis.text.blocks import Texts, text_blocks
from analysis.text.characters import Tokens, checked_tokens
from analysis.text.words import words, words_of

# Number of prompts whose terms are in memory at once.
BATCH = 4096
# Cross-validation: a prompt's hash gives its fold, and each fold is predicted by a model fitted on the others.
FOLDS = 5
PARAMETERS = ("max_features", "C", "sample_size", "random_state", "tokens")


class PromptClassifier:
    """TF-IDF of words and word pairs, with multinomial logistic regression.

    Args:
        max_features: number of terms kept; the most frequent ones are kept.
        C: inverse of the regularisation strength, as in scikit-learn.
        sample_size: number of prompts used for fitting, equally many of each group if there are enough. The sample and
            the folds are chosen by a hash of the text, so the order of the prompts has no effect.
        random_state: seed of this hash.
        tokens: what counts as a word: `unicode` or `scikit-learn`, see `analysis.text.characters`.

    Attributes:
        classes_: the groups, sorted. The index of a group is the number of its expert.
        validation_: agreement in 5-fold cross-validation on the sample. Equal prompts are in the same fold. Prompts
            whose group does not occur in the other folds are left out.

    Raises:
        ValueError: an argument is out of range.
    """

    classes_: tuple[str, ...]
    validation_: Agreement

    def __init__(
        self,
        *,
        max_features: int = 20_000,
        C: float = 100.0,
        sample_size: int = 20_000,
        random_state: int = 0,
        tokens: Tokens = "unicode",
    ) -> None:
        for name, value in (("max_features", max_features), ("C", C), ("sample_size", sample_size)):
            if not value > 0:
                raise ValueError(f"{name}: expected a positive number, got {value}")
        self.max_features = max_features
        self.C = C
        self.sample_size = sample_size
        self.random_state = random_state
        self.tokens: Tokens = checked_tokens(tokens)

    @property
    def n_groups(self) -> int:
        """Number of groups, for the protocol `GroupModel`."""
        return len(self.classes_)

    def fit(self, prompts: Texts, labels: Sequence[Any] | NDArray[Any] | pl.Series) -> Self:
        """Fit on a sample of the prompts, and cross-validate on the same sample.

        Args:
            prompts: [n], prompts.
            labels: [n], group of each prompt: text, or integers such as cluster numbers.

        Raises:
            ValueError: there are fewer than two groups, a label is missing, the lengths differ, or no prompt has a
                word.
            TypeError: `prompts` does not hold text.
        """
        texts, groups = _as_series(prompts), pl.Series("label", labels)
        if len(texts) != len(groups) or groups.null_count():
            raise ValueError(
                f"labels: expected one for each of {len(texts)} prompts, got {len(groups)}, "
                f"{groups.null_count()} of them null"
            )
        found = groups.unique().sort()
        if len(found) < 2:
            raise ValueError(f"labels: expected at least two different groups, got {found.to_list()}")
        self.classes_ = tuple(found.cast(pl.String))
        numbers = groups.cast(pl.String).replace_strict(self.classes_, range(len(found)), return_dtype=pl.Int32)
        rows, folds = self._draw(texts, numbers.to_numpy())
        self._learn(texts.gather(rows), numbers.to_numpy()[rows], folds)
        return self

    def predict(self, prompts: Texts) -> list[str]:
        """Predict the group of each prompt."""
        return [self.classes_[i] for i in self.assign(prompts)[0]]

    def predict_proba(self, prompts: Texts) -> NDArray[np.float32]:
        """Probabilities [n, n_groups], in the order of `classes_`."""
        return self.soft_assign(prompts, temperature=1)

    def assign(self, texts: Texts) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Group number [n] of each prompt, and as a distance [n], 1 - its probability."""
        probabilities = self.predict_proba(texts)
        return probabilities.argmax(axis=1).astype(np.int32), 1 - probabilities.max(axis=1, initial=0).astype(float)

    def assign_one(self, prompt: str) -> tuple[int, float]:
        """Group number and distance of one prompt: those of `assign` up to rounding, in a fifteenth of the time. A
        server asks for one prompt at a time, and `assign` spends most of its time on scikit-learn's checks of the
        input.
        """
        counts = Counter(map(self._columns.get, _words_and_pairs(words_of(prompt, self.tokens))))
        counts.pop(None, None)
        columns = np.fromiter(counts.keys(), np.int64, len(counts))
        values = (np.log(np.fromiter(counts.values(), float, len(counts))) + 1) * self._idf[columns]
        values /= np.sqrt(values @ values) or 1.0
        logits = values @ self._rows[columns] + self._bias
        weights = np.exp(logits - logits.max())
        group = int(weights.argmax())
        return group, float(1 - weights[group] / weights.sum())

    def soft_assign(self, texts: Texts, temperature: float) -> NDArray[np.float32]:
        """Soft group weights [n, n_groups]: softmax of logits / temperature.

        Raises:
            ValueError: if `temperature` is not positive.
        """
        if not temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {temperature}; `assign` is its limit at 0")
        logits = self._logits(_as_series(texts)) / temperature
        weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)

    def measure(self, prompts: Texts, labels: Sequence[Any] | NDArray[Any] | pl.Series) -> Agreement:
        """Compare predicted with true groups. True groups may include some that were not in the training data."""
        predicted = pl.Series("predicted", self.predict(prompts), pl.String)
        return Agreement.of(pl.Series(labels).cast(pl.String), predicted)

    def save(self, folder: Path) -> None:
        """Write `classifier.json`, `terms.json`, `idf.npy`, `weights.npy` and `bias.npy` into `folder`."""
        folder = Path(folder)
        save_array(folder / "idf.npy", self._idf)
        save_array(folder / "weights.npy", self._weights)
        save_array(folder / "bias.npy", self._bias)
        save_json(folder / "terms.json", self._terms)
        parameters = {name: getattr(self, name) for name in PARAMETERS}
        validation = self.validation_.confusion.rows()
        values = {"classes": self.classes_, "parameters": parameters, "validation": validation}
        save_json(folder / "classifier.json", values)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: the shapes of the files do not match.
        """
        folder = Path(folder)
        values = load_json(folder / "classifier.json")
        # Older classifiers have no `tokens`; they were fitted with scikit-learn's tokens.
        classifier = cls(**{"tokens": "scikit-learn", **values["parameters"]})
        classifier.classes_ = tuple(values["classes"])
        schema = {"label": pl.String, "predicted": pl.String, "n_prompts": pl.get_index_type()}
        rows = values["validation"]
        rows = rows["confusion"] if isinstance(rows, dict) else rows  # as versions before 0.2 wrote it
        classifier.validation_ = Agreement(pl.DataFrame(rows, schema=schema, orient="row"))
        terms, idf, weights, bias = (
            load_json(folder / "terms.json"),
            *(load_array(folder / f"{name}.npy") for name in ("idf", "weights", "bias")),
        )
        expected = (len(classifier.classes_), len(terms))
        if (*bias.shape, *idf.shape) != expected or weights.shape != expected:
            raise ValueError(
                f"expected weights {list(expected)}, as many idf and a bias for each group in {folder}, "
                f"got {list(weights.shape)}, {list(idf.shape)} and {list(bias.shape)}; fit again"
            )
        classifier._set(terms, idf, weights, bias)
        return classifier

    def _draw(self, texts: pl.Series, numbers: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the sample, in an order that depends only on the texts, and the fold of each."""
        from analysis.text._tokens import hash_documents

        seed = np.uint64(self.random_state)
        hashes = np.concatenate([hash_documents(block.data, block.offsets, seed) for block in text_blocks(texts)])
        order = np.lexsort((numbers, hashes))
        each = max(1, self.sample_size // len(self.classes_))
        rank_in_group = pl.Series(numbers[order]).to_frame("g").select(pl.int_range(pl.len()).over("g")).to_series()
        rows = order[rank_in_group.to_numpy() < each]
        return rows, (hashes[rows] % FOLDS).astype(np.int64)

    def _learn(self, texts: pl.Series, numbers: NDArray[np.int32], folds: NDArray[np.int64]) -> None:
        from threadpoolctl import threadpool_limits

        documents = list(words(texts, self.tokens))
        # Of equally frequent terms the first ones are kept. scikit-learn's `max_features` sorts all pairs first, which
        # takes twice as long.
        counts = Counter(chain.from_iterable(map(_words_and_pairs, documents)))
        if not counts:
            raise ValueError(f"expected prompts with words of two characters, got none in {len(texts)}")
        terms = sorted(term for term, _ in counts.most_common(self.max_features))
        vectoriser = _vectoriser(terms)
        rows = vectoriser.fit_transform(documents)
        with threadpool_limits(1):  # the last bits depend on the number of threads
            self.validation_ = self._cross_validate(rows, numbers, folds)
            regression = self._regression().fit(rows, numbers)
        weights, bias = regression.coef_, regression.intercept_
        if len(self.classes_) == 2:  # scikit-learn then keeps only the logit of the second class
            weights, bias = np.vstack([np.zeros_like(weights), weights]), np.array([0.0, *bias])
        self._set(terms, vectoriser.idf_, weights.astype(np.float32), bias.astype(np.float32))

    def _cross_validate(self, rows: Any, numbers: NDArray[np.int32], folds: NDArray[np.int64]) -> Agreement:
        """Predict each fold from the others. Terms and idf do not depend on the groups, so all prompts share them."""
        predicted = np.full(len(numbers), -1)
        for fold in np.unique(folds):
            known = folds != fold
            groups = np.unique(numbers[known])
            measured = ~known & np.isin(numbers, groups)
            if len(groups) > 1 and measured.any():
                predicted[measured] = self._regression().fit(rows[known], numbers[known]).predict(rows[measured])
        names, measured = np.array(self.classes_), predicted >= 0
        return Agreement.of(pl.Series(names[numbers[measured]]), pl.Series(names[predicted[measured]]))

    def _regression(self) -> Any:
        from sklearn.linear_model import LogisticRegression

        # As accurate as lbfgs here, in half to a twelfth of its time.
        return LogisticRegression(C=self.C, max_iter=1000, solver="newton-cg")

    def _set(self, terms: list[str], idf: ArrayLike, weights: NDArray[Any], bias: NDArray[Any]) -> None:
        self._terms, self._weights, self._bias = terms, weights, bias
        self._idf = np.asarray(idf, np.float64)
        self._columns = {term: column for column, term in enumerate(terms)}
        self._rows = np.ascontiguousarray(weights.T)  # the weights of a term are side by side in memory
        self._vectoriser = _vectoriser(terms)
        self._vectoriser.idf_ = self._idf

    def _logits(self, texts: pl.Series) -> NDArray[np.float32]:
        batches = (
            self._vectoriser.transform(words(texts[start : start + BATCH], self.tokens)) @ self._weights.T
            for start in range(0, len(texts), BATCH)
        )
        logits = np.concatenate([np.empty((0, self.n_groups), np.float32), *batches])
        return np.asarray(logits + self._bias, np.float32)


def _vectoriser(terms: list[str]) -> Any:
    """A TF-IDF vectoriser for these terms and documents given as lists of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(analyzer=_words_and_pairs, sublinear_tf=True, dtype=np.float32, vocabulary=terms)


def _words_and_pairs(document: list[str]) -> list[str]:
    return [*document, *(f"{first} {second}" for first, second in pairwise(document))]


def _as_series(texts: Texts) -> pl.Series:
    series = pl.Series(texts, strict=True) if isinstance(texts, Sequence) else pl.Series(texts)
    if len(series) and series.dtype != pl.String:
        raise TypeError(f"prompts: expected text, got {series.dtype}")
    if series.null_count():
        raise TypeError(f"prompts: expected text, got null {series.null_count()} times; drop or fill them")
    return series.cast(pl.String)
