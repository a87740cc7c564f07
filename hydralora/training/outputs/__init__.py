"""Outputs of a training: saved adapters, `run.json`, the model card, the energy it took.

Imports `data`, `evaluation`, `base_model` and `methods`.
"""
