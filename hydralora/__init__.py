"""HydraLoRA (Tian et al., NeurIPS 2024) as a PEFT method for stock transformers.

Importing this package registers the method with PEFT.
"""

from hydralora.calibration import calibrate_gates, calibrate_gates_by_group, compare_with_live
from hydralora.config import SAVED_PEFT_TYPE, HydraLoraConfig
from hydralora.export import export_lora, to_lora, to_merged
from hydralora.model import HydraLoraModel
from hydralora.parameters import print_parameters
from hydralora.registration import register
from hydralora.routing import record_gates
from hydralora.sequence_gates import expert_gates
from hydralora.static_routing import set_static_gates, static_gates

__all__ = [
    "HydraLoraConfig",
    "HydraLoraModel",
    "calibrate_gates",
    "calibrate_gates_by_group",
    "compare_with_live",
    "expert_gates",
    "export_lora",
    "print_parameters",
    "record_gates",
    "set_static_gates",
    "static_gates",
    "to_lora",
    "to_merged",
]

register(HydraLoraConfig, HydraLoraModel, SAVED_PEFT_TYPE)
