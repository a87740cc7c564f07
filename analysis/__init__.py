"""The science of corpora and of trained parameters: tables and arrays in, tables and arrays out.

What is listed here is public. A name is imported when it is first used, so `import analysis` stays quick:

    import analysis

    analysis.analyze("my.jsonl")  # N, why, and how sure; displays in a notebook
    sweep = analysis.sweep_kmeans(features)
    choice = analysis.select_num_clusters(features, sweep)

Modules of this project import from the sub-package that defines a name, never from here: the code versions of
`pipelines` follow import statements.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.adapters.breakdown import ComponentAdapter, ParameterBreakdown, break_down
    from analysis.adapters.observation_two import ObservationTwo, observation_two
    from analysis.adapters.routing import DocumentGates, RoutingAnalysis, analyse_routing
    from analysis.answer.analysis import Analysis
    from analysis.answer.analyze import analyze
    from analysis.answer.corpus_comparison import CorpusComparison, compare_corpora
    from analysis.clusters.assignment import Assignment, assign_records
    from analysis.clusters.choice.selection import ClusterChoice, select_num_clusters, source_weights
    from analysis.clusters.choice.structure import StructureEvidence, measure_structure
    from analysis.clusters.corpus_model import CorpusModel
    from analysis.clusters.drift import Drift, measure_drift
    from analysis.clusters.heterogeneity import Heterogeneity, measure_heterogeneity
    from analysis.clusters.interpretation import examples, top_terms
    from analysis.clusters.kmeans import ClusterSweep, sweep_kmeans
    from analysis.corpus.cleaning import CleanConfig, CleanedCorpus, clean
    from analysis.experts.grouping import Grouping, choose_grouping
    from analysis.experts.prompt_classifier import PromptClassifier
    from analysis.experts.prompt_gates import GroupModel, load_group_model
    from analysis.features.embeddings import SentenceEmbeddings
    from analysis.features.loading import load_features
    from analysis.features.lsa import TfidfLsa
    from analysis.methods.comparison import compare_losses
    from analysis.report import ReportFiles, ReportInputs, write_report
    from analysis.sources import read_source, read_sources
    from analysis.sources.catalog import CatalogSource, load_catalog
    from analysis.sources.files import FilesSource
    from analysis.sources.hub import HubSource
    from analysis.sources.packages import PackagesSource
    from analysis.sources.records import SourceError

__all__ = [
    "Analysis",
    "Assignment",
    "CatalogSource",
    "CleanConfig",
    "CleanedCorpus",
    "ClusterChoice",
    "ClusterSweep",
    "ComponentAdapter",
    "CorpusComparison",
    "CorpusModel",
    "DocumentGates",
    "Drift",
    "FilesSource",
    "GroupModel",
    "Grouping",
    "Heterogeneity",
    "HubSource",
    "ObservationTwo",
    "PackagesSource",
    "ParameterBreakdown",
    "PromptClassifier",
    "ReportFiles",
    "ReportInputs",
    "RoutingAnalysis",
    "SentenceEmbeddings",
    "SourceError",
    "StructureEvidence",
    "TfidfLsa",
    "analyse_routing",
    "analyze",
    "assign_records",
    "break_down",
    "choose_grouping",
    "clean",
    "compare_corpora",
    "compare_losses",
    "examples",
    "load_catalog",
    "load_features",
    "load_group_model",
    "measure_drift",
    "measure_heterogeneity",
    "measure_structure",
    "observation_two",
    "read_source",
    "read_sources",
    "select_num_clusters",
    "source_weights",
    "sweep_kmeans",
    "top_terms",
    "write_report",
]

_HOMES = {
    "adapters.breakdown": ("ComponentAdapter", "ParameterBreakdown", "break_down"),
    "adapters.observation_two": ("ObservationTwo", "observation_two"),
    "adapters.routing": ("DocumentGates", "RoutingAnalysis", "analyse_routing"),
    "answer.analysis": ("Analysis",),
    "answer.analyze": ("analyze",),
    "answer.corpus_comparison": ("CorpusComparison", "compare_corpora"),
    "clusters.assignment": ("Assignment", "assign_records"),
    "clusters.corpus_model": ("CorpusModel",),
    "clusters.drift": ("Drift", "measure_drift"),
    "clusters.heterogeneity": ("Heterogeneity", "measure_heterogeneity"),
    "clusters.interpretation": ("examples", "top_terms"),
    "clusters.kmeans": ("ClusterSweep", "sweep_kmeans"),
    "clusters.choice.selection": ("ClusterChoice", "select_num_clusters", "source_weights"),
    "clusters.choice.structure": ("StructureEvidence", "measure_structure"),
    "corpus.cleaning": ("CleanConfig", "CleanedCorpus", "clean"),
    "experts.grouping": ("Grouping", "choose_grouping"),
    "experts.prompt_classifier": ("PromptClassifier",),
    "experts.prompt_gates": ("GroupModel", "load_group_model"),
    "features.embeddings": ("SentenceEmbeddings",),
    "features.loading": ("load_features",),
    "features.lsa": ("TfidfLsa",),
    "methods.comparison": ("compare_losses",),
    "report": ("ReportFiles", "ReportInputs", "write_report"),
    "sources": ("read_source", "read_sources"),
    "sources.catalog": ("CatalogSource", "load_catalog"),
    "sources.files": ("FilesSource",),
    "sources.hub": ("HubSource",),
    "sources.packages": ("PackagesSource",),
    "sources.records": ("SourceError",),
}
"""Module of each public name. Strings, so that `import analysis` reaches no other module."""

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
