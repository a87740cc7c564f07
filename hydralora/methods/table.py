"""Every method of the paper in one table: its name, its row in the paper, its PEFT config, its parameter count.

`adapt(model, "hydralora", MethodConfig(num_experts=3))` puts a method on a base model, ready to train.
"""

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from hydralora.adapter.config import HydraLoraConfig
from hydralora.adapter.unfit_layers import fused_experts, read_as_experts, unfit_layers
from hydralora.methods.config import MethodConfig, MethodError
from hydralora.methods.parameters import ParameterCounts, expected_parameters, target_shapes

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


Factory = Callable[["PreTrainedModel", MethodConfig], "PeftConfig"]


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


def matched_rank(model: "PreTrainedModel", settings: MethodConfig, trainable: int) -> int:
    """Rank of the plain LoRA on `settings.target_modules` whose number of parameters is nearest to `trainable`.

    Raises:
        MethodError: If even rank 1 has more than twice that number.
    """
    per_rank = expected_parameters(_lora(model, settings, 1), model).total
    if trainable < per_rank / 2:
        raise MethodError(f"Expected match_parameters of at least {per_rank} (LoRA of rank 1), got {trainable}")
    return max(1, round(trainable / per_rank))


def _linear_names(model: nn.Module) -> str:
    from transformers.pytorch_utils import Conv1D

    names = Counter(
        name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    )
    return ", ".join(f"{name} ({count})" for name, count in names.items())


def _alpha(settings: MethodConfig, r: int) -> float:
    """The lora_alpha for rank r with the same lora_alpha / r as in the settings."""
    alpha = settings.lora_alpha * r / settings.r
    return int(alpha) if alpha.is_integer() else alpha


def _lora(model: "PreTrainedModel", settings: MethodConfig, r: int) -> "PeftConfig":
    from peft import LoraConfig

    return LoraConfig(
        r=r,
        lora_alpha=_alpha(settings, r),
        lora_dropout=settings.lora_dropout,
        **_layers(model, settings),
        task_type="CAUSAL_LM",
    )


def _lora_of_rank(r: int | None = None) -> Factory:
    return lambda model, settings: _lora(model, settings, r or settings.r)


def _lora_split(r: int, n: int) -> Factory:
    """n summed LoRAs of rank r: [B_1 .. B_n][A_1; ..; A_n] is one LoRA of rank n r with the same alpha / r.

    Rows of A are initialised independently and Adam works on single entries, so both also train identically.
    """
    return lambda model, settings: _lora(model, settings, n * r)


def _hydralora(model: "PreTrainedModel", settings: MethodConfig, **options: Any) -> "PeftConfig":
    shared = {
        "r": settings.r,
        "lora_alpha": settings.lora_alpha,
        "num_experts": settings.num_experts,
        "router_input": settings.router_input,
    }
    return HydraLoraConfig(
        lora_dropout=settings.lora_dropout,
        **_layers(model, settings),
        task_type="CAUSAL_LM",
        **{**shared, **options},
    )


def _hydralora_with(**options: Any) -> Factory:
    return lambda model, settings: _hydralora(model, settings, **options)


def _hydralora_sequence(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
    """Gates given for each sequence, and a shared expert; a smaller rank of all experts makes room for it.

    N + 1 blocks of B with rank r N / (N + 1) have as many columns as N blocks of rank r, so the size stays that of
    `hydralora`.
    """
    r = max(1, round(settings.r * settings.num_experts / (settings.num_experts + 1)))
    options = {"router_input": "given", "shared_expert": True}
    return _hydralora(model, settings, r=r, lora_alpha=_alpha(settings, r), **options)


def _hydralora_split(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
    """Experts of small rank, chosen by the prompt, beside a shared LoRA of larger rank.

    On a square d x d layer, `hydralora` has r (N + 1) d parameters. Four sevenths of them go to the shared LoRA and
    three sevenths to the experts: for r = 8 and N = 6, a shared LoRA of rank 16 and six experts of rank 3.
    """
    r, shared_rank = settings.r, settings.shared_rank
    if shared_rank is None:
        shared_rank = max(1, round(settings.r * (settings.num_experts + 1) * 2 / 7))
        r = max(1, settings.r * 3 // 7)
    options = {"router_input": "given", "shared_rank": shared_rank}
    return _hydralora(model, settings, r=r, lora_alpha=_alpha(settings, r), **options)


def _lora_matched(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
    if settings.match_parameters is None:
        raise MethodError("lora_matched needs match_parameters, the trainable parameters of the adapter to match")
    return _lora(model, settings, matched_rank(model, settings, settings.match_parameters))


def _adalora(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
    """AdaLoRA that starts at 12/8 of the target rank (PEFT's default) and prunes from 10% to 70% of the run."""
    from peft import AdaLoraConfig

    steps = settings.total_steps
    if steps is None or steps < 10:
        raise MethodError(f"adalora needs total_steps of at least 10 for its schedule of ranks, got {steps}")
    return AdaLoraConfig(
        target_r=settings.r,
        init_r=settings.r * 3 // 2,
        tinit=steps // 10,
        tfinal=3 * steps // 10,
        total_step=steps,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        **_layers(model, settings),
        task_type="CAUSAL_LM",
    )


def _ia3(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
    """(IA)3 on keys, values and the second feed-forward layer from PEFT's table of architectures.

    It ignores `target_modules`.
    """
    from peft import IA3Config
    from peft.utils import (
        TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING,
        TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING,
    )

    kind = model.config.model_type
    if kind not in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        known = ", ".join(TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING)
        raise MethodError(f"Expected an architecture that PEFT knows for (IA)3 ({known}), got {kind!r}")
    return IA3Config(
        target_modules=TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[kind],
        feedforward_modules=TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[kind],
        task_type="CAUSAL_LM",
    )


def _prefix_tuning(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
    from peft import PrefixTuningConfig

    return PrefixTuningConfig(num_virtual_tokens=settings.num_virtual_tokens, task_type="CAUSAL_LM")


def _prompt_tuning(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
    from peft import PromptTuningConfig

    return PromptTuningConfig(num_virtual_tokens=settings.num_virtual_tokens, task_type="CAUSAL_LM")


def _p_tuning(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
    from peft import PromptEncoderConfig

    return PromptEncoderConfig(
        num_virtual_tokens=settings.num_virtual_tokens,
        encoder_reparameterization_type="LSTM",
        encoder_hidden_size=settings.encoder_hidden_size,
        task_type="CAUSAL_LM",
    )


def _layers(model: "PreTrainedModel", settings: MethodConfig) -> dict[str, Any]:
    """Config fields that choose layers, so that every method adapts the same ones.

    Layers that an adapter cannot act on are excluded. If the experts of a mixture are fused into one parameter, PEFT
    reads "all-linear" differently for LoRA than for other methods. Then the linear layers are named one by one, without
    those whose names PEFT's LoRA would read as the experts.

    Raises:
        MethodError: If layers are asked for whose names PEFT's LoRA would read as the experts.
    """
    unfit = sorted(unfit_layers(model))
    targets: Any = settings.target_modules if isinstance(settings.target_modules, str) else [*settings.target_modules]
    shapes = target_shapes(HydraLoraConfig(target_modules=targets), model)
    misread = read_as_experts(model, [name for name, _, _ in shapes]) if fused_experts(model) else []
    if misread and targets != "all-linear":
        raise MethodError(
            f"Expected target_modules that every method can adapt, got {len(misread)} layers such as {misread[0]}, "
            f"whose names PEFT's LoRA reads as the experts of the mixture. Leave them out, or write 'all-linear'."
        )
    if targets == "all-linear" and (unfit or fused_experts(model)):
        named = target_shapes(HydraLoraConfig(target_modules="all-linear"), model)
        targets = [name for name, _, _ in named if name not in misread]
    if targets == "all-linear" or isinstance(settings.target_modules, str):
        unfit = []
    return {
        "target_modules": targets,
        "exclude_modules": unfit or None,
        "layers_to_transform": None if settings.layers_to_transform is None else [*settings.layers_to_transform],
    }


_ROWS = (
    Method("hydralora", "Tables 2, 3: HydraLoRA", "one A, N experts B_i, a router per layer", _hydralora),
    Method("lora_r8", "Table 2: LoRA(r=8)", "plain LoRA", _lora_of_rank(8)),
    Method("lora_r16", "Table 2: LoRA(r=16)", "plain LoRA, the size of HydraLoRA r=8, N=3", _lora_of_rank(16)),
    Method("lora_r32", "Table 2: LoRA(r=32)", "plain LoRA", _lora_of_rank(32)),
    Method("lora_matched", "", "plain LoRA as large as `match_parameters`", _lora_matched),
    Method("lora_split_16x2", "Table 1: LoRA (Split) 16x2", "2 LoRAs of rank 16, summed", _lora_split(16, 2)),
    Method("lora_split_8x4", "Table 1: LoRA (Split) 8x4", "4 LoRAs of rank 8, summed", _lora_split(8, 4)),
    Method("lora_split_4x8", "Table 1: LoRA (Split) 4x8", "8 LoRAs of rank 4, summed", _lora_split(4, 8)),
    Method("without_moe", "Table 5: w/o MoE", "one expert, no router: plain LoRA", _hydralora_with(num_experts=1)),
    Method("without_gate", "Table 5: w/o gate", "gates fixed at 1/N", _hydralora_with(router_input="uniform"), 2),
    Method("without_hydra", "Table 5: w/o hydra", "an A_i for each B_i", _hydralora_with(shared_a=False), 2),
    Method(
        "lora_moe",
        "Table 3: LoRA MoE (48 LoRAs)",
        "N LoRAs and a router on the layer's input",
        _hydralora_with(shared_a=False, router_input="hidden"),
        2,
    ),
    Method("lorahub", "Table 3: LoraHub (20 LoRAs)", "N LoRAs, combined without gradients", _lora_of_rank(), 2, True),
    Method(
        "hydralora_sequence",
        "",
        "one A, an expert for each source, task or cluster, chosen by the prompt, and a shared expert",
        _hydralora_sequence,
        2,
    ),
    Method(
        "hydralora_split",
        "",
        "small experts chosen by the prompt, and a shared LoRA of larger rank with its own A that is always on",
        _hydralora_split,
        2,
    ),
    Method("adalora", "Table 2: AdaLoRA(r=8)", "LoRA whose rank is moved between layers", _adalora),
    Method("ia3", "Table 2: (IA)3", "scales of keys, values and feed-forward activations", _ia3),
    Method("prefix_tuning", "Table 2: Prefix Tuning", "virtual keys and values in every layer", _prefix_tuning),
    Method("prompt_tuning", "Table 2: Prompt Tuning", "virtual input embeddings", _prompt_tuning),
    Method("p_tuning", "Table 2: P-Tuning(256)", "virtual input embeddings from an LSTM", _p_tuning),
    Method("full", "Table 2: Full Fine-Tuning", "all weights", None),
)
METHODS: dict[str, Method] = {method.name: method for method in _ROWS}
