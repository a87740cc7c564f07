"""HydraLoRA (Tian et al., NeurIPS 2024) as a PEFT method for stock transformers.

Importing this package registers the method with PEFT.
"""

from hydralora.config import SAVED_PEFT_TYPE, HydraLoraConfig
from hydralora.model import HydraLoraModel
from hydralora.registration import register
from hydralora.sequence_gates import expert_gates

__all__ = ["HydraLoraConfig", "HydraLoraModel", "expert_gates"]

register(HydraLoraConfig, HydraLoraModel, SAVED_PEFT_TYPE)
