"""`AutoPeftModelForCausalLM` loads adapters of the embedded base model, whose name no model hub knows.

`adapter_config.json` names the base model "embedded", which is right on every machine; a folder would not be.
"""

from pathlib import Path
from typing import Any

from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from hydralora.base_model.embedded import EMBEDDED, provision_embedded_base_model


class AutoModelWithEmbedded(AutoModelForCausalLM):
    """`AutoModelForCausalLM` that knows the embedded base model, unless a folder has its name."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As `AutoModelForCausalLM.from_pretrained`."""
        name = pretrained_model_name_or_path
        if name != EMBEDDED or Path(name).exists():
            return AutoModelForCausalLM.from_pretrained(name, *model_args, **kwargs)
        model: Any = AutoModelForCausalLM.from_pretrained(provision_embedded_base_model(), *model_args, **kwargs)
        model.name_or_path = EMBEDDED
        return model


def teach_auto_peft() -> None:
    """Let `AutoPeftModelForCausalLM` load base models by `AutoModelWithEmbedded`. A second call changes nothing."""
    if AutoPeftModelForCausalLM._target_class is AutoModelForCausalLM:
        AutoPeftModelForCausalLM._target_class = AutoModelWithEmbedded
