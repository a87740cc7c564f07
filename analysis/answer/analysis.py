"""The answer for one corpus: an object for Python and notebooks, JSON for machines, and a folder with a report."""

import html
import json
import shlex
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from analysis.atomic_files import save_json, save_table
from analysis.clusters.choice.selection import ClusterChoice
from analysis.clusters.corpus_model import CorpusModel
from analysis.clusters.description import save_corpus_model
from analysis.clusters.interpretation import top_terms
from analysis.clusters.naming import cluster_names, named_map
from analysis.corpus.data_card import BYTES_PER_TOKEN, halved_sources
from analysis.experts.grouping import Grouping
from analysis.features.vectoriser import TextStatistics
from analysis.report import NextStep, ReportFiles, ReportInputs, write_report
from analysis.report.document_map import document_map

CORPUS_MODEL = "corpus_model"
MAP = "map.parquet"
RANK, SHARED_RANK = 3, 16
"""Ranks of the project's default method: of the experts, and of the LoRA beside them."""


@dataclass(frozen=True)
class Analysis:
    """How many experts a corpus deserves, why, and how sure that is.

    Attributes:
        columns: the mapping of columns that was given.
        documents: the cleaned documents, with their cluster.
        data_card: sizes, duplicates, languages; see `analysis.corpus.data_card`.
        notes: notes on data that was not read or may have been misread.
        samples: number of clusters -> how many random samples of the documents have it.
        sweep: n_clusters, inertia.
        model: assigns new documents to the clusters.
        features: float32 [n_documents, n_components].
        explained, statistics: of the documents' features; see `analysis.features.vectoriser.FeatureBlock`.
        positions: place of each document in its cluster.
        tables: description of the clusters; see `analysis.clusters.description.describe_clusters`.
    """

    files: tuple[str, ...]
    columns: dict[str, str]
    documents: pl.DataFrame = field(repr=False)
    data_card: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...]
    choice: ClusterChoice = field(repr=False)
    samples: dict[int, int]
    grouping: Grouping
    sweep: pl.DataFrame = field(repr=False)
    model: CorpusModel = field(repr=False)
    features: NDArray[np.float32] = field(repr=False)
    explained: NDArray[np.float32] = field(repr=False)
    statistics: TextStatistics = field(repr=False)
    positions: pl.DataFrame = field(repr=False)
    tables: dict[str, pl.DataFrame] = field(repr=False)

    @property
    def num_experts(self) -> int:
        """N: the number of groups that get an expert each."""
        return len(self.grouping.groups)

    @property
    def share_of_samples(self) -> float | None:
        """Share of random samples that give the same number of clusters; None if none were drawn."""
        total = sum(self.samples.values())
        return self.samples.get(self.choice.value, 0) / total if total else None

    @property
    def why(self) -> str:
        """Why N, in a few sentences."""
        reason = self.grouping.reason
        return reason if self.grouping.kind != "cluster" else f"{reason} {self.choice.reason}"

    @property
    def how_sure(self) -> str:
        """How much the number of clusters depends on the sweep and the sample, in words. `why` has the probability of
        one part, or how reliably prompts identify sources or tasks."""
        low, high = self.choice.interval
        found = [f"{self.choice.value} clusters; shorter sweeps give {low} to {high}" if low < high else ""]
        if not found[0]:
            found = [f"{self.choice.value} clusters" if self.choice.value > 1 else "1 cluster"]
        if self.grouping.kind != "cluster":
            found[0] = f"N comes from the {self.grouping.kind}s; words alone show {found[0]}"
        total = sum(self.samples.values())
        if total:
            times = ", ".join(f"{n} in {times}" for n, times in sorted(self.samples.items()))
            found.append(f"of {total} random samples of the documents: {times}")
        if self.choice.too_small:
            found.append(f"too small to say: {self.choice.too_small}")
        return "; ".join(found) + "."

    @property
    def meaning(self) -> str:
        """Consequences of the answer for training."""
        tokens = int(self.groups["n_tokens"].sum())
        size = f"The training documents have about {_rounded(tokens)} tokens."
        if self.num_experts == 1:
            return f"{size} A plain LoRA is enough: train it with PEFT alone."
        smallest = self.groups.sort("n_tokens").row(0, named=True)
        rank = SHARED_RANK + RANK * (1 + self.num_experts) / 2
        return (
            f"{size} One LoRA of rank {SHARED_RANK} for all, and {self.num_experts} experts of rank {RANK}: in a "
            f"square layer as many parameters as a LoRA of rank {rank:g}. The smallest expert, {smallest['group']}, "
            f"gets {smallest['n_documents']:,} documents (about {_rounded(smallest['n_tokens'])} tokens). Only "
            "training shows whether experts beat a plain LoRA on this corpus."
        )

    @cached_property
    def groups(self) -> pl.DataFrame:
        """The training documents of each group: group, n_documents, share, n_tokens (estimate), top_terms, sources."""
        training = self.documents.filter(pl.col("split") == "train")
        names = list(self.grouping.groups)
        number = training[self.grouping.kind].cast(pl.String).replace_strict(names, range(len(names)))
        terms = top_terms(training["prompt"], number.to_numpy(), 8)
        by_group = terms.group_by("cluster").agg(pl.col("term").sort_by("rank"))
        terms_of = dict(by_group.iter_rows())
        n_bytes = pl.col("prompt").str.len_bytes() + pl.col("completion").str.len_bytes()
        table = (
            training.with_columns(number=number)
            .group_by("number")
            .agg(
                n_documents=pl.len(),
                n_tokens=(n_bytes.sum() / BYTES_PER_TOKEN).round().cast(pl.Int64),
                sources=pl.col("source").value_counts(sort=True, name="n"),
            )
        )
        rows = [
            {
                "group": names[row["number"]] if self.grouping.kind != "cluster" else f"cluster {row['number']}",
                "n_documents": row["n_documents"],
                "share": row["n_documents"] / len(training),
                "n_tokens": row["n_tokens"],
                "top_terms": terms_of.get(row["number"], []),
                "sources": {one["source"]: one["n"] for one in row["sources"]},
            }
            for row in table.sort("number").iter_rows(named=True)
        ]
        return pl.DataFrame(rows, schema_overrides={"sources": pl.Object})

    @cached_property
    def map(self) -> pl.DataFrame:
        """Up to 15,000 documents in a plane, as Embedding Atlas opens it.

        Columns: `x`, `y` (two leading principal components), `cluster`, `name` (the cluster's three strongest terms),
        `source`, `document_id`, `text` (the first 280 characters).
        """
        names = cluster_names(self.tables["clusters"])
        return named_map(document_map(self.documents.lazy(), self.features), names)

    @property
    def warnings(self) -> list[str]:
        """Points to look at before trusting the answer."""
        return [*halved_sources(self.data_card), *self.notes]

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON-serialisable values."""
        choice = asdict(self.choice)
        choice["evidence"]["strength"] = self.choice.evidence.strength
        return {
            "num_experts": self.num_experts,
            "group_kind": self.grouping.kind,
            "why": self.why,
            "how_sure": self.how_sure,
            "meaning": self.meaning,
            "num_clusters": self.choice.value,
            "interval": list(self.choice.interval),
            "samples": {str(n): times for n, times in self.samples.items()},
            "share_of_samples": self.share_of_samples,
            "groups": self.groups.to_dicts(),
            "warnings": self.warnings,
            "files": list(self.files),
            "columns": self.columns,
            "n_read": self.data_card["n_read"],
            "n_documents": self.data_card["n_kept"],
            "choice": {name: value for name, value in choice.items() if name not in ("table", "value")},
        }

    def write(self, folder: str | Path) -> ReportFiles:
        """Write the report, `analysis.json`, `map.parquet`, and the model that assigns new documents, into a folder.

        Returns:
            The files of the report.
        """
        folder = Path(folder)
        save_corpus_model(
            folder / CORPUS_MODEL, self.model, self.documents, self.positions, self.explained, self.statistics
        )
        save_table(folder / MAP, self.map)
        save_json(folder / "analysis.json", json.loads(json.dumps(self.to_dict(), default=_plain)))
        return write_report(self.report_inputs(), folder)

    def command(self, name: str) -> str:
        """The command `analyze` or `init` for the same files and columns."""
        columns = [part for role, column in self.columns.items() for part in ("--column", f"{role}={column}")]
        return shlex.join(["hydralora", name, *self.files, *columns])

    def report_inputs(self) -> ReportInputs:
        """The tables of the report."""
        choice = asdict(self.choice)
        sources = [source["source"] for source in self.data_card["sources"]]
        train = f"{self.command('init')} && hydralora run hydralora.yaml"
        return ReportInputs(
            title=", ".join(sources[:4]) + (f" and {len(sources) - 4} more" if len(sources) > 4 else ""),
            command=self.command("analyze"),
            choice={**choice, "num_clusters": choice.pop("value")},
            grouping={
                "num_experts": self.num_experts,
                "group_kind": self.grouping.kind,
                "groups": self.grouping.groups,
                "reason": f"{self.grouping.reason} {self.how_sure}",
            },
            data_card=self.data_card,
            sweep=self.sweep,
            cluster_map=self.map.rename({"text": "excerpt"}).drop("name"),
            n_documents=len(self.documents),
            clusters=self.tables["clusters"],
            representatives=self.tables["examples"].filter(pl.col("kind") == "representative"),
            composition=self.tables["composition"],
            next_steps=[NextStep("Train and compare", train, self.meaning)],
        )

    def _repr_html_(self) -> str:
        """The answer as HTML, for notebooks."""
        rows = "".join(
            f"<tr><td>{html.escape(row['group'])}</td><td>{row['n_documents']:,}</td>"
            f"<td>{html.escape(', '.join(row['top_terms'][:6]))}</td></tr>"
            for row in self.groups.iter_rows(named=True)
        )
        words = "".join(f"<p>{html.escape(text)}</p>" for text in (self.why, self.how_sure, self.meaning))
        head = "<tr><th>group</th><th>documents</th><th>words</th></tr>"
        return f"<h3>N = {self.num_experts}</h3>{words}<table>{head}{rows}</table>"


def _rounded(n: int) -> str:
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if n >= size:
            return f"{n / size:.2g} {name}" if n < 100 * size else f"{n / size:.0f} {name}"
    return str(n)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)
