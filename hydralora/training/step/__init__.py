"""Means for a fast training step with little memory: packed rows, fused kernels, CUDA graphs, memory, the optimiser.

Imports `hydralora.training.config` and rooms below training; does not import the loop.
"""
