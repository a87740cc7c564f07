"""Inputs of a run's report from its artifacts, and the commands that the report prints.

Imports `store` and `training`.
"""
