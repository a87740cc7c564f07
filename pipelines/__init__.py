"""Dagster over `analysis` and `hydralora`: assets, jobs, and the store of their artifacts. Imports both."""

from pipelines.store.code.source_files import remember

remember()
