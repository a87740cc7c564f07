"""Names of clusters: given by a person or a language model, else the strongest terms."""

from collections.abc import Mapping, Sequence

import polars as pl

NAME_TERMS = 3
TAIL_NAME = "tail of small tasks"
MAX_WORDS = 6
"""A longer answer of a model is a sentence, not a name."""
EXCERPT = 150
TASK = "Name what these texts have in common, in at most four words."
SHOWN = (
    ("oven, butter, dough, flour, bake", ("How long do I bake a loaf?", "Which flour is best for pasta?"), "Baking"),
    (
        "league, match, team, player",
        ("Who won the cup in 1998?", "How many players has a handball team?"),
        "Team sports",
    ),
)
"""Examples of the task: terms, texts, and a good name. Small models need them."""
Message = dict[str, str]


def names_problem(names: Mapping[str, str], n_clusters: int | None) -> str | None:
    """What is wrong with names given to clusters, in words; None if they can be used.

    Args:
        names: number of a cluster, as text -> its name.
        n_clusters: number of clusters; None if it is not known yet.
    """
    top = float("inf") if n_clusters is None else n_clusters
    unknown = [cluster for cluster in names if not cluster.isdecimal() or int(cluster) >= top]
    if unknown:
        return (
            f"expected numbers of clusters{'' if n_clusters is None else f' from 0 to {n_clusters - 1}'}, got {unknown}"
        )
    if empty := [cluster for cluster, name in names.items() if not name.strip()]:
        return f"expected a name for each cluster, got none for {empty}"
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    return f"expected different names, got {twice} more than once" if twice else None


def cluster_names(
    clusters: pl.DataFrame,
    given: Mapping[str, str] | None = None,
    answers: Mapping[int, str] | None = None,
    tail: int | None = None,
) -> pl.DataFrame:
    """The name of each cluster: columns `cluster, name, named_by`.

    Args:
        clusters: cluster, top_terms (strongest first).
        given: number of a cluster, as text -> the name that a person gives it.
        answers: cluster -> the answer of a model to its request. An answer is left out if it is not a name, or if two
            clusters have it.
        tail: the cluster of small tasks, whose terms would name one of them (`analysis.clusters.tail`).

    Raises:
        ValueError: see `names_problem`.
    """
    given = given or {}
    problem = names_problem(given, len(clusters))
    if problem is not None:
        raise ValueError(problem)
    said = {cluster: name_in(answer) for cluster, answer in (answers or {}).items()}
    taken = [name.casefold() for name in (*said.values(), *given.values())]
    rows = []
    for cluster, terms in clusters.sort("cluster").select("cluster", "top_terms").iter_rows():
        answer = said.get(cluster, "")
        if str(cluster) in given:
            rows.append((cluster, given[str(cluster)].strip(), "you"))
        elif answer and taken.count(answer.casefold()) == 1:
            rows.append((cluster, answer, "model"))
        elif cluster == tail:
            rows.append((cluster, TAIL_NAME, "tail"))
        else:
            rows.append((cluster, ", ".join((terms or [])[:NAME_TERMS]) or f"cluster {cluster}", "terms"))
    schema = {"cluster": pl.Int64, "name": pl.String, "named_by": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def name_in(answer: str) -> str:
    """The name in an answer of a model: its first line without quotes; "" if it is empty or too long."""
    first = answer.strip().partition("\n")[0]
    name = first.replace("*", "").removeprefix("Name:").strip(" \t\"'#.:“”")
    return name if name and len(name.split()) <= MAX_WORDS else ""


def name_request(terms: Sequence[str], texts: Sequence[str]) -> list[Message]:
    """A conversation that asks a model for the name of a cluster.

    Args:
        terms: strongest terms.
        texts: typical documents.
    """
    messages: list[Message] = []
    for shown_terms, shown_texts, name in SHOWN:
        messages += [_message("user", _question(shown_terms, shown_texts)), _message("assistant", name)]
    return [*messages, _message("user", _question(", ".join(terms[:8]), texts))]


def _question(terms: str, texts: Sequence[str]) -> str:
    lines = "\n".join(f"- {' '.join(text.split())[:EXCERPT]}" for text in texts)
    return f"Terms: {terms}\nTexts:\n{lines}\n{TASK}"


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def named_map(points: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """The map of documents as Embedding Atlas opens it: `x, y, cluster, name, source, document_id, text`.

    Args:
        points: of `analysis.report.document_map.document_map`.
        names: of `cluster_names`.
    """
    name = pl.col("cluster").replace_strict(names["cluster"], names["name"], default="", return_dtype=pl.String)
    return points.select(
        "x", "y", "cluster", name.alias("name"), "source", "document_id", pl.col("excerpt").alias("text")
    )
