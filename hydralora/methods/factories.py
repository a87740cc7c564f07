"""The PEFT config of each method for a base model, from settings that all methods share."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hydralora.adapter.config import HydraLoraConfig
from hydralora.adapter.unfit_layers import fused_experts, read_as_experts, unfit_layers
from hydralora.methods.config import MethodConfig, MethodError
from hydralora.methods.parameters import expected_parameters, target_shapes

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

Factory = Callable[["PreTrainedModel", MethodConfig], "PeftConfig"]


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


def lora_of_rank(r: int | None = None) -> Factory:
    """Plain LoRA of this rank; None takes the rank of the settings."""
    return lambda model, settings: _lora(model, settings, r or settings.r)


def lora_split(r: int, n: int) -> Factory:
    """n summed LoRAs of rank r: [B_1 .. B_n][A_1; ..; A_n] is one LoRA of rank n r with the same alpha / r.

    Rows of A are initialised independently and Adam works on single entries, so both also train identically.
    """
    return lambda model, settings: _lora(model, settings, n * r)


def matched_rank(model: "PreTrainedModel", settings: MethodConfig, trainable: int) -> int:
    """Rank of the plain LoRA on `settings.target_modules` whose number of parameters is nearest to `trainable`.

    Raises:
        MethodError: If even rank 1 has more than twice that number.
    """
    per_rank = expected_parameters(_lora(model, settings, 1), model).total
    if trainable < per_rank / 2:
        raise MethodError(f"Expected match_parameters of at least {per_rank} (LoRA of rank 1), got {trainable}")
    return max(1, round(trainable / per_rank))


def _hydralora(model: "PreTrainedModel", settings: MethodConfig, **options: Any) -> "PeftConfig":
    names = ("r", "lora_alpha", "lora_dropout", "num_experts", "router_input")
    fields = {name: getattr(settings, name) for name in names} | options
    return HydraLoraConfig(**fields, **_layers(model, settings), task_type="CAUSAL_LM")


def hydralora_with(**options: Any) -> Factory:
    """HydraLoRA, with some fields of its config other than in the settings."""
    return lambda model, settings: _hydralora(model, settings, **options)


def hydralora_sequence(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
    """Gates given for each sequence, and a shared expert; a smaller rank of all experts makes room for it.

    N + 1 blocks of B with rank r N / (N + 1) have as many columns as N blocks of rank r, so the size stays that of
    `hydralora`.
    """
    r = max(1, round(settings.r * settings.num_experts / (settings.num_experts + 1)))
    options = {"router_input": "given", "shared_expert": True}
    return _hydralora(model, settings, r=r, lora_alpha=_alpha(settings, r), **options)


def hydralora_split(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
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


def lora_matched(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
    """Plain LoRA of the rank with which it is about as large as `match_parameters`."""
    if settings.match_parameters is None:
        raise MethodError("lora_matched needs match_parameters, the trainable parameters of the adapter to match")
    return _lora(model, settings, matched_rank(model, settings, settings.match_parameters))


def adalora(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
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


def ia3(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
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


def with_virtual_tokens(config: str, *fields: str, **options: str) -> Factory:
    """A method with virtual tokens.

    Args:
        config: Name of PEFT's class for its config.
        fields: Names of the settings that it takes besides `num_virtual_tokens`.
        options: Other fields of the config.
    """

    def factory(model: "PreTrainedModel", settings: MethodConfig) -> "PeftConfig":
        import peft

        values = {name: getattr(settings, name) for name in ("num_virtual_tokens", *fields)}
        return getattr(peft, config)(**values, **options, task_type="CAUSAL_LM")

    return factory


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
