"""Groups of a mix that need no labels, each at its own elbow, and the words of a prompt that tell them."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from experts_mix import Ints, Mix
from numpy.typing import NDArray
from study_data import SEED, tokenised

from analysis.clusters.choice.selection import elbow
from analysis.clusters.kmeans import assign, sweep_kmeans
from analysis.clusters.tail import LEAST_TAIL, communities_in_order, is_small
from analysis.experts.prompt_classifier import PromptClassifier
from analysis.features.hidden_states import HiddenStates
from analysis.features.joint import JointFeatures
from analysis.features.lsa import TfidfLsa
from analysis.features.vectoriser import Features
from analysis.text.pairs import SEPARATOR
from hydralora.base_model import load_base_model, load_tokenizer
from hydralora.evaluation import length_batches

PREFILL_TOKENS = 16_384
LARGEST_K = 20
RESTARTS = 10

Floats = NDArray[np.float32]
Labels = dict[str, Ints]


def read_states(mixes: Path, state: Path, device: str) -> None:
    """States of all training prompts, and the seconds that reading them took, into STATE/states/NAME.npz."""
    (state / "states").mkdir(parents=True, exist_ok=True)
    base = load_base_model(device=device, dtype=torch.bfloat16)[0]
    for path in sorted(mixes.glob("*.npz")):
        mix, started = Mix.load(path), time.perf_counter()
        states = prompt_states(base, mix, mix.indices("train"), device)
        seconds = round(time.perf_counter() - started, 2)
        np.savez_compressed(state / "states" / path.name, states=states.astype(np.float16), seconds=seconds)
        print(f"{seconds:6.2f} s  {path.stem}  {len(states)} prompts", flush=True)


def prepare(mixes: Path, state: Path) -> None:
    """Mixes whose states are read, with groups of the hidden state, into STATE/mixes."""
    (state / "mixes").mkdir(parents=True, exist_ok=True)
    for path in sorted((state / "states").glob("*.npz")):
        mix, started = Mix.load(mixes / path.name), time.perf_counter()
        with np.load(path) as file:
            states, facts = file["states"].astype(np.float32), {"prefill_seconds": float(file["seconds"])}
        labels = with_states(mix, states, facts)
        replace(mix, labels=labels, facts={**mix.facts, **facts}).save(state / "mixes" / path.name)
        print(f"{time.perf_counter() - started:6.1f} s  {path.stem}  {json.dumps(facts)}", flush=True)


def retokenise(mixes: Path, state: Path, base: str) -> None:
    """The mixes of another base into STATE/mixes: the same texts and groups, its tokens. Tags stay those of the first.

    A text that the first base reads without its middle is read so by the other one too.
    """
    (state / "mixes").mkdir(parents=True, exist_ok=True)
    for path in sorted(mixes.glob("*.npz")):
        mix = Mix.load(path)
        prompts, answers = texts_of(mix)
        columns = {"source": mix.sources, "prompt": prompts, "completion": answers, "part": mix.parts}
        tokens, lengths, starts = tokenised(pl.DataFrame(columns), base=base)
        replace(mix, tokens=tokens, lengths=lengths, answer_starts=starts).save(state / "mixes" / path.name)


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


def with_states(mix: Mix, states: Floats, facts: dict[str, Any]) -> Labels:
    """The labels of a mix with groups "hidden" and "joint"; states are those of training prompts."""
    training = mix.parts == "train"
    prompts, answers = texts_of(mix)
    pairs = [SEPARATOR.join(pair) for pair in zip(prompts, answers, strict=True)]
    state_of = dict(zip(_chosen(prompts, training, lower=True), states, strict=True))

    def hidden() -> HiddenStates:
        return HiddenStates(encoder=lambda texts: np.stack([state_of[text.lower()] for text in texts]))

    labels = dict(mix.labels)
    for name, features, texts in (("hidden", hidden(), prompts), ("joint", JointFeatures(hidden()), pairs)):
        labels[name] = at_elbow(name, features, texts, prompts, training, facts)
    known = _chosen(pairs, training)
    labels |= beyond_elbow(mix, JointFeatures(hidden()).fit(known).transform(known), prompts, facts)
    if mix.name == "six":
        labels |= with_known_sources(mix, labels["joint"])
    held_out = np.isin(mix.parts, ("validation", "test"))
    for name in labels.keys() & facts.keys():
        facts[name]["information_about_source"] = information(labels[name][held_out], mix.sources[held_out])
    return labels


def beyond_elbow(mix: Mix, rows: Floats, prompts: list[str], facts: dict[str, Any]) -> Labels:
    """Groups with one expert more than "joint", from the same rows of training documents.

    "joint_next" has one K-means group more. "joint_tail" has K-means groups of all but the tail, which is the last
    group; it is left out where the tail is small.
    """
    training, n = mix.parts == "train", facts["joint"]["n"]
    # In the order of the mix, as in the study; the product sorts the rows first.
    community = communities_in_order(rows, random_state=SEED)
    tail = is_small(community, (mix.lengths - mix.answer_starts)[training])[community]
    facts["joint_next"], facts["joint_tail"] = {"n": n + 1}, {"n": n + 1, "tail": float(tail.mean())}
    groups = {"joint_next": _k_means(rows, n + 1)}
    if tail.mean() >= LEAST_TAIL:
        groups["joint_tail"] = np.full(len(rows), n)
        groups["joint_tail"][~tail] = _k_means(rows[~tail], n)
    labels = {name: told_by_words(prompts, of, training, facts[name]) for name, of in groups.items()}
    for name, of in groups.items():
        labels[name][training] = of
    return labels


def with_known_sources(mix: Mix, joint: Ints) -> Labels:
    """Of "six", two groupings that tell what joint groups lose to sources.

    "joint_flan": joint groups, but all of Flan has a group of its own. "source_mixed": sources, but Dolly's documents
    that joint groups put with MedQuAD's have MedQuAD's expert.
    """
    dolly, flan, medquad = (mix.source_names.index(name) for name in ("dolly15k", "flan10", "medquad"))
    of_medquad = np.bincount(joint[mix.sources == medquad]).argmax()
    return {
        "joint_flan": np.where(mix.sources == flan, joint.max() + 1, joint),
        "source_mixed": np.where((mix.sources == dolly) & (joint == of_medquad), medquad, mix.sources),
    }


def _k_means(rows: Floats, n: int) -> Ints:
    sweep = sweep_kmeans(rows, range(1, n + 2), n_init=RESTARTS)
    return assign(rows, sweep.centers[sweep.index(n)])[0].astype(np.int64)


def at_elbow(
    name: str, features: Features, texts: list[str], prompts: list[str], training: Any, facts: dict[str, Any]
) -> Ints:
    """K-means groups of the training texts at the elbow; of the other documents, what words of the prompt tell.

    Where the words of the prompt are all that is clustered, the nearest centre tells the group.
    """
    known = _chosen(texts, training)
    rows = features.fit(known).transform(known)
    sweep = sweep_kmeans(rows, range(1, LARGEST_K + 1), n_init=RESTARTS)
    facts[name] = {"n": elbow(sweep)}
    centers = sweep.centers[sweep.index(elbow(sweep))]
    if isinstance(features, TfidfLsa):
        return assign(features.transform(texts), centers)[0].astype(np.int64)
    groups = assign(rows, centers)[0].astype(np.int64)
    told = told_by_words(prompts, groups, training, facts[name])
    told[training] = groups
    return told


def told_by_words(prompts: list[str], groups: Ints, training: Any, facts: dict[str, Any] | None = None) -> Ints:
    """Groups of all documents as a classifier tells them, which was taught those of the training prompts."""
    classifier = PromptClassifier().fit(_chosen(prompts, training), groups)
    if facts is not None:
        facts["told_cross_validated"] = classifier.validation_.accuracy
    return np.array([int(name) for name in classifier.predict(prompts)], np.int64)


def texts_of(mix: Mix) -> tuple[list[str], list[str]]:
    """Prompts and answers as text, as far as the embedded base reads them."""
    tokenizer: Any = load_tokenizer()
    documents, starts = [mix.document(i) for i in range(len(mix.lengths))], mix.answer_starts
    prompts = [d[mix.tag_place : start] for d, start in zip(documents, starts, strict=True)]
    answers = [d[start:] for d, start in zip(documents, starts, strict=True)]
    options = {"skip_special_tokens": True}
    return tokenizer.batch_decode(prompts, **options), tokenizer.batch_decode(answers, **options)


def information(a: Ints, b: Ints) -> float:
    """Normalised mutual information."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(a, b))


def _chosen(texts: Sequence[str], rows: NDArray[np.bool_], lower: bool = False) -> list[str]:
    return [text.lower() if lower else text for text, there in zip(texts, rows, strict=True) if there]
