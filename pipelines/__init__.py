"""Dagster over `analysis` and `hydralora`: assets, jobs, and the store of their artifacts. Imports both."""
