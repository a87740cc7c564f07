"""Groups of a mix by the hidden state at the end of each prompt, and a classifier of text that finds them.

Runs without polars, so that it works beside the GPU. K-means is the project's own where numba works there, else one of
a few lines.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from experts_mix import Ints, Mix
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from hydralora.evaluation import length_batches

PREFILL_TOKENS = 16_384
COMPONENTS = 64
LARGEST_K = 20
RESTARTS = 10
MORE_KS = (2, 3, 4, 8, 12, 16, 32)  # beside six and the elbow
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


def standardised(states: Floats, training: NDArray[np.bool_]) -> Floats:
    """Standardised, projected onto the leading directions of training prompts, each row scaled to length one."""
    known = states[training]
    rows = (states - known.mean(axis=0)) / np.maximum(known.std(axis=0), 1e-6)
    components = min(COMPONENTS, *known.shape)
    directions = np.linalg.svd(rows[training], full_matrices=False)[2][:components]
    rows = rows @ directions.T
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), np.float32)


def kmeans_sweep(rows: Floats, ks: list[int], device: str) -> tuple[dict[int, Floats], int, str]:
    """Centres for each K, the elbow of the project's rule, and whose K-means it was."""
    try:
        from analysis.clusters.choice.selection import elbow as elbow_of
        from analysis.clusters.kmeans import sweep_kmeans
    except ImportError as error:
        print("the project's K-means does not load:", error, flush=True)
        return {6: _kmeans(torch.from_numpy(rows).to(device), 6)}, 6, "torch, K=6 for the elbow"
    sweep = sweep_kmeans(rows, ks, n_init=RESTARTS)
    elbow = elbow_of(sweep) if len(ks) > 2 else ks[-1]
    return {k: sweep.centers[sweep.index(k)] for k in sweep.n_clusters}, elbow, "analysis.clusters.kmeans"


def _kmeans(rows: torch.Tensor, k: int, iterations: int = 100) -> Floats:
    """Lloyd's algorithm from k-means++ starts; the best of `RESTARTS`."""
    generator = torch.Generator(device=rows.device).manual_seed(0)
    best: tuple[float, torch.Tensor] | None = None
    for _ in range(RESTARTS):
        centers = rows[torch.randint(len(rows), (1,), generator=generator, device=rows.device)]
        while len(centers) < k:
            weights = torch.cdist(rows, centers).square().amin(1).clamp_min(1e-12)
            centers = torch.cat([centers, rows[torch.multinomial(weights, 1, generator=generator)]])
        for _ in range(iterations):
            member = F.one_hot(torch.cdist(rows, centers).argmin(1), k).float()
            sizes = member.sum(0)
            centers = torch.where(sizes[:, None] > 0, member.T @ rows / sizes.clamp_min(1)[:, None], centers)
        error = float(torch.cdist(rows, centers).square().amin(1).sum())
        if best is None or error < best[0]:
            best = error, centers
    assert best is not None
    return best[1].cpu().numpy()


def nearest(rows: Floats, centers: Floats) -> Ints:
    """Number of the nearest centre of each row."""
    return np.asarray((2 * rows @ centers.T - np.square(centers).sum(axis=1)).argmax(axis=1), np.int64)


def distilled(words: Floats, groups: Ints, training: NDArray[np.bool_], device: str) -> Ints:
    """Groups of all documents as multinomial logistic regression on their words finds them."""
    x = torch.from_numpy(words).to(device)
    known, y = x[torch.from_numpy(training).to(device)], torch.from_numpy(groups[training]).to(device)
    weight = torch.zeros(int(groups.max()) + 1, x.shape[1], device=device, requires_grad=True)
    bias = torch.zeros(len(weight), device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(known @ weight.T + bias, y, reduction="sum") + weight.square().sum() / (2 * PENALTY)
        loss.backward()
        return loss

    optimizer.step(closure)
    return (x @ weight.T + bias).argmax(1).cpu().numpy().astype(np.int64)


def with_hidden_groups(mix: Mix, base: Any, device: str, states_file: Path) -> Mix:
    """The mix with groups of the hidden state, hard and as text tells them; the states go into a file."""
    started = time.perf_counter()
    everything = np.arange(len(mix.lengths))
    states = prompt_states(base, mix, everything, device)
    seconds = time.perf_counter() - started
    np.savez_compressed(states_file, states=states.astype(np.float16))
    training = mix.parts == "train"
    rows = standardised(states, training)
    largest = min(LARGEST_K, int(training.sum()) // 2)
    centers, elbow, whose = kmeans_sweep(rows[training], list(range(1, largest + 1)), device)
    labels = dict(mix.labels)
    labels["hidden_k6"] = nearest(rows, centers[6])
    labels["hidden_elbow"] = nearest(rows, centers[elbow])
    words = mix.words()
    test = np.isin(mix.parts, ("test",))
    accuracy = {}
    for name in ("hidden_k6", "hidden_elbow"):
        labels[f"{name}_text"] = distilled(words, labels[name], training, device)
        accuracy[name] = float((labels[f"{name}_text"] == labels[name])[test].mean())
    facts = {
        "elbow": elbow,
        "kmeans": whose,
        "prefill_seconds": round(seconds, 2),
        "prompt_tokens": int(mix.answer_starts.sum()),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "text_classifier_accuracy_on_test_prompts": accuracy,
        "mutual_information_with_source": {
            name: {
                part: _nmi(labels[name][mix.parts == part], mix.labels["source"][mix.parts == part])
                for part in ("train", "test")
            }
            for name in ("hidden_k6", "hidden_elbow", "lsa_k6", "lsa_elbow")
        },
        "sizes": np.bincount(labels["hidden_k6"][training]).tolist(),
        "seconds": round(time.perf_counter() - started, 2),
    }
    return replace(mix, labels=labels, facts={**mix.facts, "hidden": facts})


def with_more_groups(mix: Mix, states: Floats, device: str) -> Mix:
    """The mix with hidden groups for each K of `MORE_KS`, and soft gates over the six of `hidden_k6`.

    A soft gate falls with the squared distance d to each centre, as exp(-3 d / mean d to the own centre).
    """
    training = mix.parts == "train"
    rows = standardised(states.astype(np.float32), training)
    labels = dict(mix.labels)
    centers, _, _ = kmeans_sweep(rows[training], list(MORE_KS), device)
    for k in MORE_KS:
        labels[f"hidden_k{k}"] = nearest(rows, centers[k])
    six = np.stack([rows[training & (labels["hidden_k6"] == k)].mean(axis=0) for k in range(6)])
    distances = np.square(rows[:, None] - six).sum(axis=2)
    weights = np.exp(-3 * (distances - distances.min(axis=1, keepdims=True)) / distances[training].min(axis=1).mean())
    return replace(mix, labels=labels, weights={"hidden_k6_soft": weights / weights.sum(axis=1, keepdims=True)})


def with_joint_groups(mix: Mix, states: Floats) -> Mix:
    """The mix with groups of joint features (`analysis.features.joint`), with the hidden state and of words alone.

    A served model has no answer yet, so held-out documents get their group from `NAME_text`, a classifier of the
    prompt's words that was taught the groups.
    """
    from analysis.clusters.choice.selection import elbow as elbow_of
    from analysis.clusters.kmeans import sweep_kmeans
    from analysis.experts.prompt_classifier import PromptClassifier
    from analysis.features.hidden_states import HiddenStates
    from analysis.features.joint import JointFeatures
    from analysis.text.pairs import SEPARATOR

    training, test = mix.parts == "train", mix.parts == "test"
    prompts, answers = texts_of(mix)
    pairs = [SEPARATOR.join(pair) for pair in zip(prompts, answers, strict=True)]
    state_of = dict(zip(map(str.lower, prompts), states.astype(np.float32), strict=True))
    hidden = HiddenStates(encoder=lambda texts: np.stack([state_of[text.lower()] for text in texts]))
    known = [prompt for prompt, there in zip(prompts, training, strict=True) if there]
    labels, found = dict(mix.labels), {}
    for view, features in (("joint", JointFeatures(hidden)), ("words", JointFeatures())):
        rows = features.fit([pair for pair, there in zip(pairs, training, strict=True) if there]).transform(pairs)
        sweep = sweep_kmeans(rows[training], range(1, LARGEST_K + 1), n_init=RESTARTS)
        elbow = elbow_of(sweep)
        for name, k in ((f"{view}_elbow", elbow), (f"{view}_double", 2 * elbow), (f"{view}_k6", 6)):
            labels[name] = nearest(rows, sweep.centers[sweep.index(k)])
            classifier = PromptClassifier().fit(known, labels[name][training])
            told = labels[f"{name}_text"] = np.asarray(classifier.predict(prompts), np.int64)
            found[name] = {
                "n": k,
                "accuracy_of_text": float((told == labels[name])[test].mean()),
                "cross_validated": classifier.validation_.accuracy,
                "mutual_information_with_source": _nmi(told[test], mix.labels["source"][test]),
            }
    return replace(mix, labels=labels, facts={**mix.facts, "joint": found})


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


def _nmi(a: Ints, b: Ints) -> float:
    """Mutual information over the mean of the two entropies."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1 / len(a))

    def entropy(p: NDArray[np.float64]) -> float:
        p = p[p > 0]
        return float(-(p * np.log(p)).sum())

    rows, columns = entropy(table.sum(axis=1)), entropy(table.sum(axis=0))
    return (rows + columns - entropy(table.ravel())) / max((rows + columns) / 2, 1e-12)
