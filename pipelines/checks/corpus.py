"""Checks of features, clusters and experts: values that contradict each other."""

import importlib.util
from collections.abc import Iterator
from typing import Any

from pipelines.checks.configured_run import ConfiguredRun
from pipelines.checks.problem import AnyProblem, Problem, Refusal
from pipelines.corpus.sources import PackagesConfig

LEAST_FOR_AN_ELBOW = 3


def problems(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Problems of features, clusters and experts."""
    yield from _features(run)
    yield from _clusters(run)
    yield from _names(run)
    yield from _experts(run)


def _features(run: ConfiguredRun) -> Iterator[AnyProblem]:
    config, field = run.configs.get("document_features"), "ops.document_features.config"
    if config is None:
        return
    if config.kind == "embeddings" and importlib.util.find_spec("sentence_transformers") is None:
        advice = "Install it: pip install 'hydralora[embeddings]'. Or take tfidf."
        yield Problem(f"{field}.kind", "sentence-transformers for embeddings", "no such package", advice)
    if config.kind != "embeddings" and config.embedding_model is not None:
        advice = "Set kind: embeddings, or leave the model out."
        yield Problem(f"{field}.embedding_model", f"no model with kind: {config.kind}", config.embedding_model, advice)
    elif config.embedding_model is not None and not config.embedding_model.strip():
        yield Problem(f"{field}.embedding_model", "the name of a model, or nothing", config.embedding_model)
    if config.kind == "tfidf" and config.n_components is not None and config.n_components > config.max_features:
        advice = f"Of {config.max_features} terms there are no more directions."
        yield Problem(f"{field}.n_components", "at most max_features", config.n_components, advice)


def _clusters(run: ConfiguredRun) -> Iterator[AnyProblem]:
    choice, sweep = run.configs.get("num_clusters"), run.configs.get("cluster_sweep")
    if choice is None:
        return
    field = "ops.num_clusters.config"
    yield from _edits(choice, field)
    yield from _tail(choice, field)
    if sweep is None:
        return
    if choice.value is not None and choice.value > sweep.max_clusters:
        advice = "Raise ops.cluster_sweep.config.max_clusters, or ask for fewer."
        yield Problem(f"{field}.value", f"at most max_clusters ({sweep.max_clusters})", choice.value, advice)
    if choice.value is None and sweep.max_clusters < LEAST_FOR_AN_ELBOW:
        advice = "A shorter curve has no elbow. Raise it, or set ops.num_clusters.config.value."
        field = "ops.cluster_sweep.config.max_clusters"
        yield Problem(field, f"at least {LEAST_FOR_AN_ELBOW}", sweep.max_clusters, advice)


def _edits(choice: Any, field: str) -> Iterator[AnyProblem]:
    """Check that merged and split clusters exist; this needs a fixed number of clusters."""
    from analysis.clusters.edits import edit_problem

    odd = [cluster for cluster in choice.split if not cluster.isdecimal()]
    if odd:
        yield Problem(f"{field}.split", "numbers of clusters", odd)
    elif (choice.merge or choice.split) and choice.value is None:
        advice = "Set it to the number of clusters of the run whose clusters you edit."
        yield Problem(f"{field}.value", "a number beside merge and split", choice.value, advice)
    elif choice.merge or choice.split:
        split = {int(cluster): parts for cluster, parts in choice.split.items()}
        problem = edit_problem(choice.value, choice.merge, split)
        if problem is not None:
            yield Refusal(f"{field}.{'merge' if choice.merge else 'split'}", f"{problem}.")


def _tail(choice: Any, field: str) -> Iterator[AnyProblem]:
    """Check that clusters beside a tail are not edited: without the tail, they are not those that a run showed."""
    if choice.tail and (choice.merge or choice.split):
        advice = "The clusters beside a tail are fitted anew. Leave the edits or the tail out."
        yield Problem(f"{field}.tail", "false with merge and split", choice.tail, advice)
    elif choice.tail and choice.value == 1:
        advice = "A corpus of one cluster has no tail. Raise it, or leave the tail out."
        yield Problem(f"{field}.value", "at least 2 with tail: true", choice.value, advice)


def _names(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Names that clusters are given, and the server that is asked for others."""
    from analysis.clusters.naming import names_problem

    config, choice, field = (
        run.configs.get("cluster_names"),
        run.configs.get("num_clusters"),
        "ops.cluster_names.config",
    )
    if config is None:
        return
    n_clusters = None
    if choice is not None and choice.value is not None and not choice.merge and not choice.split:
        n_clusters = choice.value + bool(choice.tail)
    if problem := names_problem(config.names, n_clusters):
        yield Refusal(f"{field}.names", f"{problem}.")
    is_url = config.url.startswith(("http://", "https://"))
    if config.by == "endpoint" and not (is_url and config.model):
        advice = "Give both, for example url: http://localhost:8000/v1, or take terms."
        yield Problem(
            f"{field}.by", "a url and a model for endpoint", f"url {config.url!r}, model {config.model!r}", advice
        )
    elif config.by != "endpoint" and (config.url or config.model):
        yield Problem(f"{field}.by", "endpoint beside url and model", config.by, "Set by: endpoint, or leave them out.")


def _experts(run: ConfiguredRun) -> Iterator[AnyProblem]:
    """Check that there are as many experts as sources if each source gets one."""
    config, raw = run.configs.get("expert_assignment"), run.configs.get("raw_documents")
    if config is None or raw is None or config.grouping != "sources":
        return
    known = not any(isinstance(source.read, PackagesConfig) for source in raw.sources) and raw.on_error == "raise"
    n = len(raw.sources)
    if not known or not n:
        return
    if n == 1:
        advice = "Take auto or clusters, or name more sources."
        yield Problem("ops.expert_assignment.config.grouping", "two sources or more", "sources, with one", advice)
        return
    if n > config.max_experts:
        advice = f"With grouping: sources each of the {n} sources has an expert. Raise it, or take auto or clusters."
        yield Problem("ops.expert_assignment.config.max_experts", f"at least {n}", config.max_experts, advice)
    choice = run.configs.get("num_clusters")
    if choice is not None and choice.value not in (None, n):
        advice = f"With grouping: sources each of the {n} sources has an expert. Leave it out, or take clusters."
        yield Problem("ops.num_clusters.config.value", str(n), choice.value, advice)
