"""The settings of the methods.

This module imports only the standard library: the pipelines read fields, defaults and limits from it without torch.
"""

import dataclasses

ALL_LINEAR = "all-linear"
"""PEFT's name for all linear layers except the output layer."""


class MethodError(ValueError):
    """The method does not exist, does not fit the base model, or contradicts its settings."""


@dataclasses.dataclass(frozen=True)
class MethodConfig:
    """Settings of the methods. The defaults are the paper's if it gives one.

    Attributes:
        target_modules: Names of the layers to adapt, or "all-linear" (also as a list of this one entry). The paper
            counts parameters for q and v.
        layers_to_transform: Indices of the layers to adapt; None for all. The backward pass stops at the lowest one,
            which saves time. Methods without `target_modules` ignore it.
        r: Rank of methods that do not fix it in their name.
        lora_alpha: Alpha at rank `r`. Methods with another rank keep lora_alpha / r, so that all take similar steps.
            The paper does not give alpha.
        lora_dropout: Dropout probability on the input of A.
        num_experts: Number of experts N, or the number of LoRAs that LoraHub combines.
        router_input: Router input of HydraLoRA, see `HydraLoraConfig`.
        shared_rank: Rank of the shared LoRA of "hydralora_split"; `r` is then the experts' rank. None derives both
            ranks from `r`, so that the method is about as large as "hydralora".
        num_virtual_tokens: Number of virtual tokens of prefix tuning, prompt tuning and P-tuning.
        encoder_hidden_size: Hidden size of P-tuning's LSTM.
        total_steps: Optimizer steps of the whole run; AdaLoRA's schedule needs them.
        match_parameters: Number of trainable parameters, with the router, that "lora_matched" approximates.
    """

    target_modules: tuple[str, ...] | str = ("q_proj", "v_proj")
    layers_to_transform: tuple[int, ...] | None = dataclasses.field(default=None, metadata={"ge": 0})
    r: int = dataclasses.field(default=8, metadata={"ge": 1})
    lora_alpha: int = dataclasses.field(default=16, metadata={"ge": 1})
    lora_dropout: float = dataclasses.field(default=0.0, metadata={"ge": 0, "lt": 1})
    num_experts: int = 3
    router_input: str = "low_rank"
    shared_rank: int | None = None
    num_virtual_tokens: int = 20
    encoder_hidden_size: int = 256
    total_steps: int | None = None
    match_parameters: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.target_modules, str):
            names = tuple(self.target_modules)
            object.__setattr__(self, "target_modules", ALL_LINEAR if names == (ALL_LINEAR,) else names)
        if self.layers_to_transform is not None:
            object.__setattr__(self, "layers_to_transform", tuple(self.layers_to_transform))
        for name in ("r", "lora_alpha", "num_experts", "num_virtual_tokens", "encoder_hidden_size"):
            if getattr(self, name) < 1:
                raise MethodError(f"Expected {name} of at least 1, got {getattr(self, name)}")
        if self.shared_rank is not None and self.shared_rank < 1:
            raise MethodError(f"Expected shared_rank of at least 1, or None, got {self.shared_rank}")
        if not 0 <= self.lora_dropout < 1:
            raise MethodError(f"Expected lora_dropout from 0 to below 1, got {self.lora_dropout}")
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise MethodError("Expected target_modules as a list of names with layers_to_transform, got one string")
        if not self.target_modules:
            raise MethodError("Expected at least one of target_modules, got none")
        if not isinstance(self.target_modules, str) and ALL_LINEAR in self.target_modules:
            raise MethodError(f"Expected {ALL_LINEAR} alone in target_modules, got {[*self.target_modules]}")
