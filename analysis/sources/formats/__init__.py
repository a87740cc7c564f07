"""Reads each file format block by block: CSV, JSON, JSON lines, Parquet, and data sets in memory.

Imports `records` and `values` of the room above; does not import shapes and splits.
"""
