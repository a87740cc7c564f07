"""Makes training steps fast and small in memory: packed rows, fused kernels, CUDA graphs, memory, the optimiser.

Imports `hydralora.training.config` and the packages below training; does not import the loop.
"""
