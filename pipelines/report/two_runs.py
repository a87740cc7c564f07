"""Two stored runs side by side: what the pages of their reports say, and what only their artifacts know.

from pipelines.report.two_runs import compare_runs, report_at

compare_runs(report_at(Path("outputs/a/runs/1a2b3c4d")), report_at(Path("outputs/b")), Path("comparison.html"))
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pipelines.store.artifacts import RECORD, Artifact, ArtifactError, artifact_of, lineage
from pipelines.store.runs import RUNS, read_run

if TYPE_CHECKING:
    from analysis.answer.corpus_comparison import ClusteredCorpus
    from analysis.report.section import Section

REPORTS = ("report", "corpus_report")
MOST_DOCUMENTS = 40_000
"""Most documents of both runs by which clusters are matched; from more, an equal share of each run is drawn."""
CODE = "code"
_LONGEST = 160
Artifacts = Mapping[str, Artifact]


def report_at(path: Path) -> Artifact:
    """The report of a run's folder `STORE/runs/<run id>`, or one of `STORE/report/<fingerprint>`.

    Raises:
        ArtifactError: the run made no report, or its files are missing or damaged.
    """
    path = path.resolve()
    if path.parent.name == RUNS:
        made = read_run(path)
        asset = next((name for name in REPORTS if name in made), None)
        if asset is None:
            raise ArtifactError(f"{path}: expected a run that made a report, found {', '.join(made) or 'nothing'}.")
        return artifact_of(path.parents[1], asset, made[asset])
    return artifact_of(path.parents[1], path.parent.name, path.name)


def compare_runs(first: Artifact, second: Artifact, path: Path) -> Path:
    """Write a page that compares two reports and the artifacts that they were made from.

    Args:
        first, second: artifacts of `report` or `corpus_report`, of one store or of two.
    """
    from analysis.report import write_comparison

    runs = [made_from(first), made_from(second)]
    sections = [differing_stages(*runs), shared_losses(*runs), matched_clusters(*runs)]
    return write_comparison(first.folder, second.folder, path, [found for found in sections if found])


def made_from(report: Artifact) -> dict[str, Artifact]:
    """Asset -> artifact of all that a report was made from and that is still in the store."""
    store = report.folder.parents[1]
    made = sorted(lineage(report).items())
    found = {asset: Artifact(asset, fingerprint, store / asset / fingerprint) for asset, fingerprint in made}
    return {asset: artifact for asset, artifact in found.items() if (artifact.folder / RECORD).exists()}


def differing_stages(first: Artifacts, second: Artifacts) -> "Section":
    """Which stages are the same artifact, and what the others differ in: configuration, code, or inputs alone."""
    from analysis.report.section import Section, Table

    both = [name for name in first if name in second]
    other = [name for name in both if first[name].fingerprint != second[name].fingerprint]
    rows = [(name, *row) for name in other for row in _differences(first[name].record, second[name].record)]
    rows += [(name, "in one run only", name in first, name in second) for name in sorted({*first} ^ {*second})]
    named = {name for name, *_ in rows}
    follow = [name for name in other if name not in named]
    lead = f"{len(both) - len(other)} of {len(both)} stages are the same artifact in both runs."
    if follow:
        lead += f" These differ only because an earlier stage does: {', '.join(follow)}."
    code = [name for name, what, *_ in rows if what == CODE]
    notices = [("warning", f"The code differs of {', '.join(code)}: so may the numbers.")] if code else []
    shown = tuple((name, what, _short(a), _short(b)) for name, what, a, b in rows)
    tables = (Table("What differs in the configuration", ("stage", "what", "first", "second"), shown, False),)
    return Section("stages", "What was run", lead, tables=tables if rows else (), notices=tuple(notices))


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Rows (what, first, second) of the records of two artifacts of one asset; none if only their inputs differ."""
    yield from _unequal(one["config"], other["config"], "")
    if one["code_version"] != other["code_version"]:
        yield CODE, one["code_version"], other["code_version"]


def _unequal(one: Any, other: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """The outermost values that differ, by their dotted names."""
    one, other = _by_name(one), _by_name(other)
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys([*one, *other]):
            yield from _unequal(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
    elif one != other:
        yield name, one, other


def _by_name(value: Any) -> Any:
    """A list of named things, or of mappings, as one mapping: one thing more then shifts no other."""
    if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
        return value
    if all("name" in item for item in value):
        return {item["name"]: item for item in value}
    return {key: item for mapping in value for key, item in mapping.items()}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else "–" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def shared_losses(first: Artifacts, second: Artifacts) -> "Section | None":
    """Losses of each method on the held-out documents that both runs measured with the same answer tokens."""
    from analysis.methods.comparison import compare_losses
    from analysis.report.section import Section, table

    title = "Losses of the same documents"
    if "evaluation" not in first or "evaluation" not in second:
        return None
    keys = ["method", "source", "document_id", "n_tokens"]
    tables = [run["evaluation"].read("document_losses").with_columns(seed=pl.lit(0)) for run in (first, second)]
    shared = tables[0].join(tables[1].select(keys), on=keys, how="semi")
    methods = shared["method"].unique(maintain_order=True).to_list()
    if not methods:
        missing = "No method was measured in both runs on a document that both tokenise to as many answer tokens."
        return Section("shared", title, missing=missing)
    rows = []
    for method in methods:
        sides = [
            of.join(shared.filter(method=method).select(keys), on=keys, how="semi").with_columns(method=pl.lit(name))
            for of, name in zip(tables, ("first", "second"), strict=True)
        ]
        found = {row["method"]: row for row in compare_losses(pl.concat(sides), "first").to_dicts()}
        a, b = found["first"], found["second"]
        ends = (b["difference_low"], b["difference_high"])
        shown = "yes" if ends[0] > 0 or ends[1] < 0 else "no"
        rows.append((method, a["n_documents"], a["loss"], b["loss"], b["difference"], *ends, shown))
    columns = ("method", "documents", "first", "second", "difference", "low", "high", "shown")
    lead = (
        "Each method on the held-out documents that both runs measured, paired by document: nats an answer token, "
        "averaged over sources; second minus first, negative is better; 95% intervals over documents. They say nothing "
        "about other seeds. The base model's own difference shows what comes from elsewhere than training."
    )
    frame = pl.DataFrame(rows, schema=columns, orient="row").with_columns(pl.selectors.float().round(4))
    return Section("shared", title, lead, tables=(table(frame, title, folded=False),))


def matched_clusters(first: Artifacts, second: Artifacts) -> "Section":
    """The clusters of both runs, matched by the documents of both."""
    from analysis.answer.corpus_comparison import compare_corpora
    from analysis.report.section import Section, table

    title = "Clusters matched"
    needed = ("corpus_documents", "document_features", "cluster_labels")
    if gone := [name for name in needed if name not in first or name not in second]:
        return Section("matched", title, missing=f"{', '.join(gone)} is no longer in both stores.")
    if first["cluster_labels"].fingerprint == second["cluster_labels"].fingerprint:
        return Section("matched", title, missing="Both runs have the same clusters.")
    kinds = {run["document_features"].record["config"]["kind"] for run in (first, second)}
    if kinds != {"tfidf"}:
        return Section("matched", title, missing=f"Only clusters of words are matched; these are of {sorted(kinds)}.")
    sizes = [len(run["cluster_labels"].read("labels")) for run in (first, second)]
    share = min(1.0, MOST_DOCUMENTS / sum(sizes))
    found = compare_corpora(*(clustered(run, share) for run in (first, second)))
    numbers = pl.col("share_first", "share_second", "overlap").round(3)
    rows = found.table.with_columns(numbers, terms=pl.col("terms").list.join(" "))
    sample = "" if share == 1 else f" Matched by {share:.0%} of the documents of each run, drawn at random."
    lead = (
        f"Pairs are matched by the documents of both runs, one to one; overlap is their Jaccard similarity. A cluster "
        f"without a partner is of one run alone. {found.mix_shift:.0%} of the second run's documents would have to "
        f"change cluster to give the first one's shares.{sample}"
    )
    return Section("matched", title, lead, tables=(table(rows, title, folded=False),))


def clustered(run: Artifacts, share: float) -> "ClusteredCorpus":
    """The clusters of a run, with a random share of its documents."""
    from analysis.answer.corpus_comparison import ClusteredCorpus
    from analysis.clusters.corpus_model import CorpusModel

    documents = run["corpus_documents"].read("documents").select("prompt", "completion")
    n_drawn = max(1, round(share * len(documents)))
    rows = np.sort(np.random.default_rng(0).choice(len(documents), n_drawn, replace=False))
    labels = run["cluster_labels"]
    return ClusteredCorpus(
        documents[rows],
        labels.read("labels")[rows],
        CorpusModel.load(labels.path("corpus_model")),
        np.asarray(run["document_features"].array("explained")[rows]),
        {"clusters": labels.read("clusters")},
    )
