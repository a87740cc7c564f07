"""Helpers that the corpus assets share: sources, features and expert assignment. Imports `store`."""
