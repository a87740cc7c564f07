"""Gates outside the layer: record, fix, calibrate, export, operate on experts.

Imports `adapter` and `base_model`.
"""
