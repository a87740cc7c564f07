"""Dagster components: a corpus with its whole configuration, as one file of YAML in `pipelines/corpora`."""

from pipelines.components.configured_job import ConfiguredJob

__all__ = ["ConfiguredJob"]
