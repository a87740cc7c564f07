"""What makes a training step fast and small: packed rows, fused kernels, CUDA graphs, memory, the optimiser.

Imports `hydralora.training.config` and rooms below training; does not import the loop.
"""
