"""Configuration of a HydraLoRA adapter, in PEFT's field names plus what the experts and their router need."""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.utils import PeftType

from hydralora.adapter.card import replace_empty_card

ROUTER_INPUTS = ("low_rank", "hidden", "uniform", "given")
_WHOLE_NUMBERS = ("r", "num_experts", "shared_rank")
_SWITCHES = ("shared_expert", "shared_a", "fan_in_fan_out", "use_rslora", "init_weights")

# Written into adapter_config.json. A process that has not imported this package fails with KeyError('HYDRALORA') before
# any code of this package can run. Users who then open the file find this sentence.
HOW_TO_LOAD = "To load this adapter, install the package hydralora and run `import hydralora` first."
# Earlier versions wrote this as `peft_type`; their adapters still load.
EARLIER_PEFT_TYPE = "HYDRALORA: to load this adapter, install the package hydralora and run `import hydralora` first"


@dataclass
class HydraLoraConfig(PeftConfig):
    """Configuration of HydraLoRA (Tian et al., arXiv 2404.19245).

    Fields that `peft.LoraConfig` also has mean the same here.

    >>> config = HydraLoraConfig(r=4, num_experts=6, router_input="given", target_modules="all-linear")
    >>> config.num_experts
    6

    Args:
        r: Rank of A and of each expert B_i.
        num_experts: Number of experts N that the gates weight. With one expert, the adapter is plain LoRA and has no
            router.
        router_input: Where the gates come from. "low_rank": softmax(W_g A x), as in the paper. "hidden":
            softmax(W_g x), as in the authors' code. "uniform": 1 / N. "given": from outside, one vector for each
            sequence, see `hydralora.expert_gates`. The last two have no router parameters.
        shared_expert: Whether to add one expert to the N that is always on, with gate 1. It is one more B of rank `r`
            and uses the experts' A.
        shared_rank: Rank of the shared LoRA, which is always on beside the N experts and has its own A and B; 0 means
            none. It does not depend on `r` and cannot be combined with `shared_expert`.
        shared_alpha: The shared LoRA's update is scaled by shared_alpha / shared_rank (shared_alpha / sqrt(shared_rank)
            with `use_rslora`). None uses the experts' scaling of each layer. With one-hot gates, both parts together
            are then one plain LoRA of rank shared_rank + r with a single scaling.
        shared_a: Whether all experts share one A (the paper's asymmetry). False gives each expert its own A_i.
        target_modules: Names of the layers to adapt, a regular expression, or "all-linear".
        exclude_modules: Names of the layers not to adapt, or a regular expression.
        lora_alpha: The update is scaled by lora_alpha / r.
        lora_dropout: Dropout probability on the input of A; all experts share one mask.
        fan_in_fan_out: Whether the base layer's weight is [in, out]. Needed only for your own layer types: `nn.Linear`
            and transformers' `Conv1D` are recognised.
        use_rslora: Whether to scale by lora_alpha / sqrt(r) instead of lora_alpha / r.
        modules_to_save: Other modules to train fully and save with the adapter.
        init_weights: Whether to initialise A Kaiming-uniform and B with zeros, so that training starts from the base
            model. False initialises B like A, so that the adapter changes the output (for tests).
        layers_to_transform: Indices of the layers to adapt.
        layers_pattern: Name of the `nn.ModuleList` of layers; needs `layers_to_transform`.
        rank_pattern: Layer name or regular expression -> rank instead of `r`. `shared_rank` is the same in all layers.
        alpha_pattern: Layer name or regular expression -> alpha instead of `lora_alpha`.
        how_to_load: A sentence for readers of adapter_config.json; it has no effect.

    Raises:
        ValueError: If a value is of another type or out of range, or fields contradict each other.
    """

    r: int = 8
    num_experts: int = 3
    router_input: str = "low_rank"
    shared_expert: bool = False
    shared_rank: int = 0
    shared_alpha: float | None = None
    shared_a: bool = True
    target_modules: list[str] | set[str] | str | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    modules_to_save: list[str] | None = None
    init_weights: bool = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    how_to_load: str = HOW_TO_LOAD

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.HYDRALORA
        if self.router_input == "sequence":  # the name in adapters saved before 0.2
            self.router_input = "given"
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)
        self._check()

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save as PEFT does, and replace PEFT's empty model card by one that says how to load the adapter."""
        super().save_pretrained(save_directory, **kwargs)
        replace_empty_card(Path(save_directory), self.to_dict())

    def _check(self) -> None:
        self._check_types()
        if self.r < 1:
            raise ValueError(f"Expected a rank `r` of at least 1, got {self.r}")
        if self.num_experts < 1:
            raise ValueError(f"Expected `num_experts` of at least 1, got {self.num_experts}")
        if self.router_input not in ROUTER_INPUTS:
            raise ValueError(f"Expected `router_input` to be one of {ROUTER_INPUTS}, got {self.router_input!r}")
        self._check_shared()
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"Expected `lora_dropout` from 0 to below 1, got {self.lora_dropout}")
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("When `layers_pattern` is specified, `layers_to_transform` must also be specified.")
        if isinstance(self.target_modules, str) and self.layers_to_transform is not None:
            raise ValueError("`layers_to_transform` cannot be used when `target_modules` is a str.")

    def _check_types(self) -> None:
        """Values from YAML or a command line may be text: "false" would count as true."""
        patterns = {f"rank_pattern[{key!r}]": rank for key, rank in (self.rank_pattern or {}).items()}
        for name, value in {name: getattr(self, name) for name in _WHOLE_NUMBERS}.items() | patterns.items():
            if not isinstance(value, Integral) or isinstance(value, bool):
                raise ValueError(f"Expected `{name}` to be a whole number, got {value!r}")
        alphas = {f"alpha_pattern[{key!r}]": alpha for key, alpha in (self.alpha_pattern or {}).items()}
        optional = {} if self.shared_alpha is None else {"shared_alpha": self.shared_alpha}
        numbers = {"lora_alpha": self.lora_alpha, "lora_dropout": self.lora_dropout} | optional | alphas
        for name, value in numbers.items():
            if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
                raise ValueError(f"Expected `{name}` to be a finite number, got {value!r}")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"Expected `{name}` to be True or False, got {getattr(self, name)!r}")

    def _check_shared(self) -> None:
        if self.shared_rank < 0:
            raise ValueError(f"Expected `shared_rank` of at least 0, got {self.shared_rank}")
        if self.shared_rank and self.shared_expert:
            raise ValueError(
                f"Expected one part that is always on, got shared_expert=True and shared_rank={self.shared_rank}. "
                f"Choose `shared_rank` for a LoRA with its own A, or `shared_expert` for one more B that uses the "
                f"experts' A."
            )
        if self.shared_alpha is not None and not self.shared_rank:
            raise ValueError(
                f"Expected `shared_alpha` together with `shared_rank`, got shared_alpha={self.shared_alpha} without a "
                f"shared LoRA to scale"
            )
