"""Groups of a mix that need no labels: K-means of the hidden state and of joint features, and how words tell them."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from experts_mix import Ints, Mix
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from analysis.clusters.choice.selection import elbow
from analysis.clusters.kmeans import assign, sweep_kmeans
from analysis.experts.prompt_classifier import PromptClassifier
from analysis.features.hidden_states import HiddenStates
from analysis.features.joint import JointFeatures
from analysis.features.vectoriser import Features
from analysis.text.pairs import SEPARATOR
from hydralora.evaluation import length_batches

PREFILL_TOKENS = 16_384
LARGEST_K = 20
RESTARTS = 10
PENALTY = 100.0  # inverse strength, as of the prompt classifier

Floats = NDArray[np.float32]


@torch.inference_mode()
def prompt_states(base: Any, mix: Mix, documents: Ints, device: str) -> Floats:
    """Last hidden state (after the final norm) at the last token of each prompt, [len(documents), hidden]."""
    states = torch.zeros(len(documents), base.config.hidden_size)
    starts = mix.answer_starts[documents]
    for group in length_batches(starts, PREFILL_TOKENS):
        tokens = torch.full((len(group), int(starts[group].max())), 2)
        for row, i in enumerate(group):
            tokens[row, : starts[i]] = torch.from_numpy(mix.document(documents[i])[: starts[i]].astype(np.int64))
        hidden = base.model(tokens.to(device), use_cache=False).last_hidden_state
        ends = torch.from_numpy(starts[group] - 1).to(device)
        states[torch.from_numpy(group)] = hidden[torch.arange(len(group), device=device), ends].float().cpu()
    return states.numpy()


def with_states(mix: Mix, base: Any, device: str, states_file: Path) -> Mix:
    """Read all prompts once; the states go into a file, the time into the facts of the mix."""
    started = time.perf_counter()
    states = prompt_states(base, mix, np.arange(len(mix.lengths)), device)
    facts = {
        "prefill_seconds": round(time.perf_counter() - started, 2),
        "prompt_tokens": int(mix.answer_starts.sum()),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
    }
    np.savez_compressed(states_file, states=states.astype(np.float16))
    return replace(mix, facts={**mix.facts, "hidden": facts})


def with_groups(mix: Mix, states: Floats) -> Mix:
    """The mix with groups of each view at its elbow, at twice its elbow, and at six.

    Views: "hidden" (the state at the end of the prompt), "joint" (`analysis.features.joint` with it) and "words" (joint
    without it). Held-out documents have no answer when they are served, so `NAME_text` is what a classifier of the
    prompt's words says, which was taught the groups.
    """
    training, test = mix.parts == "train", mix.parts == "test"
    prompts, answers = texts_of(mix)
    pairs = [SEPARATOR.join(pair) for pair in zip(prompts, answers, strict=True)]
    state_of = dict(zip(map(str.lower, prompts), states.astype(np.float32), strict=True))

    def hidden() -> HiddenStates:
        return HiddenStates(encoder=lambda texts: np.stack([state_of[text.lower()] for text in texts]))

    views: dict[str, tuple[Features, list[str]]] = {
        "hidden": (hidden(), prompts),
        "joint": (JointFeatures(hidden()), pairs),
        "words": (JointFeatures(), pairs),
    }
    labels, found = dict(mix.labels), {}
    for view, (features, texts) in views.items():
        rows = features.fit(_chosen(texts, training)).transform(texts)
        sweep = sweep_kmeans(rows[training], range(1, LARGEST_K + 1), n_init=RESTARTS)
        for name, k in (("elbow", elbow(sweep)), ("double", 2 * elbow(sweep)), ("k6", 6)):
            groups = labels[f"{view}_{name}"] = assign(rows, sweep.centers[sweep.index(k)])[0].astype(np.int64)
            classifier = PromptClassifier().fit(_chosen(prompts, training), groups[training])
            told = labels[f"{view}_{name}_text"] = np.asarray(classifier.predict(prompts), np.int64)
            found[f"{view}_{name}"] = {
                "n": k,
                "accuracy_of_text": float((told == groups)[test].mean()),
                "cross_validated": classifier.validation_.accuracy,
                "mutual_information_with_source": _information(told[test], mix.labels["source"][test]),
            }
    return replace(mix, labels=labels, facts={**mix.facts, "groups": found})


def texts_of(mix: Mix) -> tuple[list[str], list[str]]:
    """Prompts and answers as text."""
    from transformers import AutoTokenizer

    from hydralora.base_model import provision_embedded_base_model

    tokenizer = AutoTokenizer.from_pretrained(provision_embedded_base_model())
    documents, starts = [mix.document(i) for i in range(len(mix.lengths))], mix.answer_starts
    prompts = [d[mix.tag_place : start] for d, start in zip(documents, starts, strict=True)]
    answers = [d[start:] for d, start in zip(documents, starts, strict=True)]
    options = {"skip_special_tokens": True}
    return tokenizer.batch_decode(prompts, **options), tokenizer.batch_decode(answers, **options)


def with_told_gates(mix: Mix, *names: str) -> Mix:
    """The mix with soft gates NAME_told: probabilities of the groups of NAME as words of the prompt tell them.

    Those of a training document come from a classifier that has not seen it, as in serving.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    training, words, weights = mix.parts == "train", csr_matrix(mix.words()), dict(mix.weights)
    for name in names:
        groups, classifier = mix.labels[name][training], LogisticRegression(C=PENALTY, max_iter=300)
        told = classifier.fit(words[training], groups).predict_proba(words)
        told[training] = cross_val_predict(classifier, words[training], groups, cv=5, method="predict_proba")
        weights[f"{name}_told"] = np.asarray(told, np.float32)
    return replace(mix, weights=weights)


def _chosen(texts: Iterable[str], rows: NDArray[np.bool_]) -> list[str]:
    return [text for text, there in zip(texts, rows, strict=True) if there]


def _information(a: Ints, b: Ints) -> float:
    """Normalised mutual information."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(a, b))
