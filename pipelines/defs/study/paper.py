"""The paper's tables and figures, one asset each."""

import dagster as dg
import polars as pl
from pydantic import Field

from pipelines.store.artifacts import Artifact, Draft
from pipelines.store.assets import Check, Description, artifact_asset
from pipelines.study.paper import WRITERS, PaperInputs
from pipelines.study.study_documents import Corpus


class PaperConfig(dg.Config):
    """How intervals are computed."""

    resamples: int = Field(1_000, ge=1, le=1_000_000)
    """Number of bootstrap resamples."""


def _described(artifact: Artifact, study_runs: Artifact) -> Description:
    rows = len(artifact.read("table"))
    asked = artifact.asset.removeprefix("paper_") in study_runs.record["config"]["experiments"]
    return Description(
        table="table",
        metadata={"table": dg.MetadataValue.md(artifact.path("table.md").read_text())},
        checks=[Check("has_rows", rows > 0 or not asked, f"{rows} rows", {"rows": rows})],
    )


def paper_asset(name: str) -> dg.AssetsDefinition:
    """Make the asset of one table or figure. It is empty if the study was configured without its runs."""
    what, write = WRITERS[name]

    def paper_table(
        draft: Draft,
        config: PaperConfig,
        study_runs: Artifact,
        study_benchmarks: Artifact,
        corpus_documents: Artifact,
        document_features: Artifact,
        tokenised_documents: Artifact,
    ) -> None:
        if name not in study_runs.record["config"]["experiments"]:
            draft.write_table("table", pl.DataFrame())
            draft.write_bytes("table.md", f"{name} is not among the experiments of this study.\n".encode())
            return
        corpus = Corpus(corpus_documents, document_features, tokenised_documents)
        write(draft, PaperInputs(study_runs, study_benchmarks, corpus, config.resamples), name)

    paper_table.__name__ = f"paper_{name}"
    paper_table.__doc__ = f"{what} Ours, what the paper prints, and what differs."
    blocking = {"has_rows": "The table has rows, where the study has its runs."}
    return artifact_asset(group="study", kinds={"polars"}, describe=_described, blocking=blocking)(paper_table)


paper_assets = [paper_asset(name) for name in WRITERS]
