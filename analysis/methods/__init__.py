"""Comparison of methods, and the paper's printed values. Imports nothing of the project."""
