"""HydraLoRA (Tian et al., NeurIPS 2024) as a PEFT method for stock transformers.

Importing this package registers the method with PEFT.
"""

from hydralora import earlier_names
from hydralora.adapter.config import EARLIER_PEFT_TYPE, HydraLoraConfig
from hydralora.adapter.given_gates import expert_gates
from hydralora.adapter.model import HydraLoraModel
from hydralora.adapter.registration import register
from hydralora.base_model.auto_peft import teach_auto_peft
from hydralora.gates.calibration import calibrate_gates, calibrate_gates_by_group, compare_with_live
from hydralora.gates.export import export_lora, to_lora, to_merged
from hydralora.gates.fixed import fixed_gates, set_fixed_gates
from hydralora.gates.recording import record_gates
from hydralora.methods.parameters import print_parameters

__all__ = [
    "HydraLoraConfig",
    "HydraLoraModel",
    "calibrate_gates",
    "calibrate_gates_by_group",
    "compare_with_live",
    "expert_gates",
    "export_lora",
    "fixed_gates",
    "print_parameters",
    "record_gates",
    "set_fixed_gates",
    "set_static_gates",
    "static_gates",
    "to_lora",
    "to_merged",
]

register(HydraLoraConfig, HydraLoraModel, EARLIER_PEFT_TYPE)
teach_auto_peft()
earlier_names.install()

set_static_gates, static_gates = set_fixed_gates, fixed_gates  # earlier names
