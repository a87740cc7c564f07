"""Outputs of a training: saved adapters, `run.json`, the model card, the energy it took, whose folder it is.

Imports `hydralora.training.config` and the packages below training; does not import the loop.
"""
