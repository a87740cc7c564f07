"""Work on gates outside the layer: record, fix and calibrate them, export a plain LoRA, edit the experts.

Imports `adapter` and `base_model`.
"""
