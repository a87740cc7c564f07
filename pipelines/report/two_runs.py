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
    from analysis.report.sections import Section

REPORTS = ("report", "corpus_report")
MOST_DOCUMENTS = 40_000
"""Most documents of both runs by which clusters are matched; from more, an equal share of each run is drawn."""
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
    found = {asset: Artifact(asset, fingerprint, store / asset / fingerprint) for asset, fingerprint in _made(report)}
    return {asset: artifact for asset, artifact in found.items() if (artifact.folder / RECORD).exists()}


def _made(report: Artifact) -> list[tuple[str, str]]:
    return sorted(lineage(report).items())


def differing_stages(first: Artifacts, second: Artifacts) -> "Section":
    """Which stages are the same artifact, and what the others differ in: configuration, code, or inputs alone."""
    from analysis.report.sections import Section, Table

    both = [name for name in first if name in second]
    same = [name for name in both if first[name].fingerprint == second[name].fingerprint]
    rows = [row for name in both if name not in same for row in _differences(first[name], second[name])]
    rows += [(name, "in one run only", name in first, name in second) for name in sorted({*first} ^ {*second})]
    lead = (
        f"{len(same)} of {len(both)} stages are the same artifact in both runs. Of the others, each row is a value "
        f"that differs. A stage that differs in its inputs alone differs because of an earlier one."
    )
    code = sorted({name for name, what, *_ in rows if what == "code"})
    notices = [("warning", f"The code differs of {', '.join(code)}: so may the numbers.")] if code else []
    shown = tuple((name, what, _short(a), _short(b)) for name, what, a, b in rows)
    tables = (Table("What differs in the configuration", ("stage", "what", "first", "second"), shown, False),)
    return Section("stages", "What was run", lead, tables=tables if rows else (), notices=tuple(notices))


def _differences(one: Artifact, other: Artifact) -> list[tuple[str, str, Any, Any]]:
    """Rows (stage, what, first, second) of two artifacts of one asset."""
    records = [one.record, other.record]
    values = [dict(_flat(record["config"])) for record in records]
    names = dict.fromkeys([*values[0], *values[1]])
    rows = [
        (one.asset, name, values[0].get(name), values[1].get(name))
        for name in names
        if values[0].get(name) != values[1].get(name)
    ]
    if records[0]["code_version"] != records[1]["code_version"]:
        rows.append((one.asset, "code", *(record["code_version"] for record in records)))
    if not rows:
        given = [{of["asset"]: of["fingerprint"] for of in record["inputs"].values()} for record in records]
        changed = [name for name in given[0] if given[0][name] != given[1].get(name)]
        rows.append((one.asset, f"inputs alone: {', '.join(changed)}", one.fingerprint, other.fingerprint))
    return rows


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name -> value. A list of named things is read as a mapping, so that one more shifts no other."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {item.get("name", ""): item for item in value} if "name" in value[0] else _merged(value)
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _merged(values: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: item for value in values for key, item in value.items()}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else "–" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def shared_losses(first: Artifacts, second: Artifacts) -> "Section | None":
    """Losses of each method on the held-out documents that both runs measured with the same answer tokens."""
    from analysis.methods.comparison import compare_losses
    from analysis.report.sections import Section, table

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
    from analysis.report.sections import Section, table

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
