"""Every method of the paper in one table: its name, its row in the paper, its PEFT config, its parameter count.

`adapt(model, "hydralora", MethodConfig(num_experts=3))` puts a method on a base model, ready to train.
"""

import copy
import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

from torch import nn

from hydralora.methods.config import MethodConfig, MethodError
from hydralora.methods.factories import (
    Factory,
    adalora,
    hydralora_sequence,
    hydralora_split,
    hydralora_with,
    ia3,
    lora_matched,
    lora_of_rank,
    lora_split,
    with_virtual_tokens,
)
from hydralora.methods.parameters import ParameterCounts, expected_parameters, target_shapes

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        paper: Table and row of the paper; empty for our own methods.
        factory: Makes the PEFT config for a base model; None trains the whole model.
        min_experts: Smallest number of experts with which the method makes sense.
        one_adapter_per_expert: Whether `num_experts` adapters are trained one by one, each with this config (LoraHub).
    """

    name: str
    paper: str
    description: str
    factory: Factory | None
    min_experts: int = 1
    one_adapter_per_expert: bool = False

    def config(self, model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig | None":
        """The PEFT config for a base model; None for full fine-tuning.

        Raises:
            MethodError: If the settings contradict the method, or name layers that the model does not have.
        """
        if settings.num_experts < self.min_experts:
            raise MethodError(
                f"Expected num_experts of at least {self.min_experts} for {self.name}, got {settings.num_experts}. "
                f"With one expert it is plain LoRA: use lora_r8 or without_moe."
            )
        if self.factory is None:
            return None
        config = self.factory(model, settings)
        check_targets(model, config)
        return config

    def parameters(self, model: "PreTrainedModel", settings: MethodConfig) -> ParameterCounts:
        """Numbers of parameters in closed form, without building the adapter; for LoraHub, of all its LoRAs."""
        counts = expected_parameters(self.config(model, settings), model)
        if not self.one_adapter_per_expert:
            return counts
        return dataclasses.replace(counts, a=counts.a * settings.num_experts, b=counts.b * settings.num_experts)


def get_method(name: str) -> Method:
    """The method with this name.

    Raises:
        MethodError: If there is no such method.
    """
    if name not in METHODS:
        raise MethodError(f"Expected one of the methods {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def adapt(model: "PreTrainedModel", name: str, settings: MethodConfig) -> "PeftModel | PreTrainedModel":
    """Put a method on a base model, in place. Only the method's parameters require gradients.

    For LoraHub, this adds one of its LoRAs.

    Raises:
        MethodError: If the name is unknown, the settings contradict the method, or the method does not fit the model.
    """
    from peft import get_peft_model

    config = get_method(name).config(model, settings)
    if config is None:
        return model.requires_grad_(True)
    return get_peft_model(model, config)


def check_targets(model: nn.Module, config: "PeftConfig") -> None:
    """Check that every entry of `target_modules` names a layer of the model.

    Raises:
        MethodError: If it does not; the message lists the names that the model has.
    """
    targets = getattr(config, "target_modules", None)
    if targets is None or targets == "all-linear":
        return
    entries = [targets] if isinstance(targets, str) else sorted(targets)
    for entry in entries:
        alone: Any = copy.copy(config)
        alone.target_modules = entry if isinstance(targets, str) else {entry}
        if next(target_shapes(alone, model), None) is None:
            raise MethodError(
                f"Expected target_modules among the layers of {type(model).__name__}, got {entry!r}. "
                f"It has {_linear_names(model)}."
            )


def _linear_names(model: nn.Module) -> str:
    from transformers.pytorch_utils import Conv1D

    names = Counter(
        name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    )
    return ", ".join(f"{name} ({count})" for name, count in names.items())


LSTM_TOKENS = with_virtual_tokens("PromptEncoderConfig", "encoder_hidden_size", encoder_reparameterization_type="LSTM")
_ROWS = (
    Method("hydralora", "Tables 2, 3: HydraLoRA", "one A, N experts B_i, a router per layer", hydralora_with()),
    Method("lora_r8", "Table 2: LoRA(r=8)", "plain LoRA", lora_of_rank(8)),
    Method("lora_r16", "Table 2: LoRA(r=16)", "plain LoRA, the size of HydraLoRA r=8, N=3", lora_of_rank(16)),
    Method("lora_r32", "Table 2: LoRA(r=32)", "plain LoRA", lora_of_rank(32)),
    Method("lora_matched", "", "plain LoRA as large as `match_parameters`", lora_matched),
    Method("lora_split_16x2", "Table 1: LoRA (Split) 16x2", "2 LoRAs of rank 16, summed", lora_split(16, 2)),
    Method("lora_split_8x4", "Table 1: LoRA (Split) 8x4", "4 LoRAs of rank 8, summed", lora_split(8, 4)),
    Method("lora_split_4x8", "Table 1: LoRA (Split) 4x8", "8 LoRAs of rank 4, summed", lora_split(4, 8)),
    Method("without_moe", "Table 5: w/o MoE", "one expert, no router: plain LoRA", hydralora_with(num_experts=1)),
    Method("without_gate", "Table 5: w/o gate", "gates fixed at 1/N", hydralora_with(router_input="uniform"), 2),
    Method("without_hydra", "Table 5: w/o hydra", "an A_i for each B_i", hydralora_with(shared_a=False), 2),
    Method(
        "lora_moe",
        "Table 3: LoRA MoE (48 LoRAs)",
        "N LoRAs and a router on the layer's input",
        hydralora_with(shared_a=False, router_input="hidden"),
        2,
    ),
    Method("lorahub", "Table 3: LoraHub (20 LoRAs)", "N LoRAs, combined without gradients", lora_of_rank(), 2, True),
    Method(
        "hydralora_sequence",
        "",
        "one A, an expert for each source, task or cluster, chosen by the prompt, and a shared expert",
        hydralora_sequence,
        2,
    ),
    Method(
        "hydralora_split",
        "",
        "small experts chosen by the prompt, and a shared LoRA of larger rank with its own A that is always on",
        hydralora_split,
        2,
    ),
    Method("adalora", "Table 2: AdaLoRA(r=8)", "LoRA whose rank is moved between layers", adalora),
    Method("ia3", "Table 2: (IA)3", "scales of keys, values and feed-forward activations", ia3),
    Method(
        "prefix_tuning",
        "Table 2: Prefix Tuning",
        "virtual keys and values in every layer",
        with_virtual_tokens("PrefixTuningConfig"),
    ),
    Method(
        "prompt_tuning", "Table 2: Prompt Tuning", "virtual input embeddings", with_virtual_tokens("PromptTuningConfig")
    ),
    Method("p_tuning", "Table 2: P-Tuning(256)", "virtual input embeddings from an LSTM", LSTM_TOKENS),
    Method("full", "Table 2: Full Fine-Tuning", "all weights", None),
)
METHODS: dict[str, Method] = {method.name: method for method in _ROWS}
