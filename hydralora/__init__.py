"""HydraLoRA (Tian et al., NeurIPS 2024) as a PEFT method for stock transformers.

Importing this package registers the method with PEFT.
"""

from typing import Any

from hydralora import deprecation
from hydralora.adapter.config import EARLIER_PEFT_TYPE, HydraLoraConfig
from hydralora.adapter.given_gates import expert_gates
from hydralora.adapter.model import HydraLoraModel
from hydralora.adapter.registration import register
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
    "to_lora",
    "to_merged",
]

register(HydraLoraConfig, HydraLoraModel, EARLIER_PEFT_TYPE)
deprecation.install()

_RENAMED = {"set_static_gates": "set_fixed_gates", "static_gates": "fixed_gates"}


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        new = _RENAMED[name]
        return deprecation.renamed(f"hydralora.{name}", f"hydralora.{new}", globals()[new])
    raise AttributeError(f"module 'hydralora' has no attribute {name!r}")
