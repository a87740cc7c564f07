"""Turns the cells of an experiment into runs with documents, learning rate and size."""

from dataclasses import dataclass

import dagster as dg
import polars as pl

from pipelines.store.io_manager import ArtifactStore
from pipelines.study.experiments import NUM_CLUSTERS, Cell
from pipelines.study.running.run import Run, Setup
from pipelines.study.running.run_documents import SplitConfig
from pipelines.study.sizes import checked_sizes, planned_run
from pipelines.study.study_documents import Corpus, study_documents
from pipelines.training.losses import BASE
from pipelines.training.recipe import BaseModel, Recipe


class DomainsConfig(SplitConfig):
    """The sources of each domain of `pipelines.study.experiments`, and how many of their documents are held out."""

    domains: dict[str, list[str]]


@dataclass(frozen=True)
class Planner:
    """Makes runs from cells: finds the documents and the size of each."""

    store: ArtifactStore
    recipe: Recipe
    base_model: BaseModel
    corpus: Corpus
    config: DomainsConfig

    def setup(self, domain: str) -> Setup:
        """The setup that all runs of a domain share.

        Raises:
            dagster.Failure: no experiment uses the domain, or the domain has no sources.
        """
        if domain not in NUM_CLUSTERS:
            raise dg.Failure(f"Expected domains among {', '.join(NUM_CLUSTERS)}, got {domain!r}", allow_retries=False)
        try:
            sources, n = self.config.domains[domain], NUM_CLUSTERS[domain]
            documents = study_documents(self.store, self.corpus, sources, n, self.config)
        except ValueError as error:
            raise dg.Failure(f"Nothing was trained. {domain}: {error}", allow_retries=False) from None
        return Setup.of(self.store.directory, documents, self.recipe, self.base_model)

    def run(self, cell: Cell, seed: int, rate: float) -> Run:
        """The run of a cell."""
        return planned_run(cell.method, seed, rate, cell.num_experts, self.recipe, self.base_model)


def study_sizes(cells: list[Cell], setups: dict[str, Setup], planner: Planner) -> pl.DataFrame:
    """Sizes of all methods for each N. A method that does not fit ends the job before any training."""
    tables = []
    for n in sorted({cell.num_experts for cell in cells}):
        own = [cell for cell in cells if cell.num_experts == n and cell.method != BASE]
        methods = list(dict.fromkeys(cell.method for cell in own))
        documents = setups[own[0].domain].documents
        sizes = checked_sizes(documents, methods, n, planner.recipe, planner.base_model)
        tables.append(sizes.with_columns(num_experts=n))
    return pl.concat(tables)
