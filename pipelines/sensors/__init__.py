"""Dagster sensors: runs whose process is gone, and new files.

Imports `store`.
"""
