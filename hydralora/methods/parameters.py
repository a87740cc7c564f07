"""Numbers of parameters of an adapter by purpose: counted in a model, or computed from layer shapes in closed form.

Both work on the meta device, so counting takes a second for a 7B model and needs no weights.
"""

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from hydralora.adapter.unfit_layers import fused_experts, read_as_experts, unfit_layers

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel


@dataclasses.dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters of one adapter and of the base model under it.

    Attributes:
        a: Parameters of the low-rank factors A.
        b: Parameters of the low-rank factors B.
        shared_expert: Parameters of the shared expert's B.
        shared_lora: Parameters of A and B of the shared LoRA (`shared_rank`).
        other: All other trained parameters: virtual tokens, (IA)3 vectors, AdaLoRA's singular values,
            `modules_to_save`, or the whole model.
    """

    base: int
    a: int = 0
    b: int = 0
    router: int = 0
    shared_expert: int = 0
    shared_lora: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All trained parameters."""
        return self.a + self.b + self.router + self.shared_expert + self.shared_lora + self.other

    @property
    def percent(self) -> float:
        """Size of the adapter in percent of the base model, with the router."""
        return 100 * self.total / self.base

    @property
    def percent_without_router(self) -> float:
        """Size of the adapter in percent of the base model as in the paper (`%Param` of its Tables 1 to 3)."""
        return 100 * (self.total - self.router) / self.base

    def __str__(self) -> str:
        parts = {
            "A": self.a,
            "B": self.b,
            "router": self.router,
            "shared": self.shared_expert,
            "shared LoRA": self.shared_lora,
            "other": self.other,
        }
        shown = " + ".join(f"{name} {count:,}" for name, count in parts.items() if count)
        return (
            f"adapter parameters: {self.total:,} ({shown or 'none'}) || base parameters: {self.base:,} || "
            f"% of base: {self.percent:.4f} (without the router {self.percent_without_router:.4f})"
        )


def count_parameters(model: "PeftModel | PreTrainedModel", adapter_name: str = "default") -> ParameterCounts:
    """Count the parameters of a model, frozen ones too.

    Args:
        model: A model with an adapter, or a plain model, which counts as fully trained.

    Raises:
        ValueError: If there is no adapter of this name.
    """
    if not hasattr(model, "peft_config"):
        return ParameterCounts(base=_numel(model), other=_numel(model))
    if adapter_name not in model.peft_config:
        raise ValueError(f"Expected one of the adapters {sorted(model.peft_config)}, got {adapter_name!r}")
    config: Any = model.peft_config[adapter_name]
    counts = dict.fromkeys((field.name for field in dataclasses.fields(ParameterCounts)), 0)
    for name, parameter in model.named_parameters():
        kind = _kind(name, model, adapter_name)
        if kind is not None:
            counts[kind] += _parameter_numel(parameter)
        if kind in ("a", "b") and getattr(config, "shared_rank", None):
            in_or_out = parameter.shape[1 if kind == "a" else 0]  # rows of A_s, columns of B_s
            counts[kind] -= config.shared_rank * in_or_out
            counts["shared_lora"] += config.shared_rank * in_or_out
    if getattr(config, "shared_expert", False):
        counts["shared_expert"] = counts["b"] // (config.num_experts + 1)  # one of equal blocks
        counts["b"] -= counts["shared_expert"]
    return ParameterCounts(**counts)


def print_parameters(model: "PeftModel | PreTrainedModel", adapter_name: str = "default") -> None:
    """Print like PEFT's `print_trainable_parameters`, with the router separate and percentages of the base model."""
    print(count_parameters(model, adapter_name))


def expected_parameters(config: "PeftConfig | None", model: "PreTrainedModel") -> ParameterCounts:
    """Compute what `get_peft_model(model, config)` will add, from the shapes of the adapted layers.

    Args:
        config: PEFT config of any method in `hydralora.methods`; None is full fine-tuning.
        model: The base model without an adapter.

    Raises:
        ValueError: If there is no closed form for this kind of config.
    """
    base = _numel(model)
    if config is None:
        return ParameterCounts(base=base, other=base)
    kind = str(config.peft_type.value)
    if kind in _PROMPT_METHODS:
        return ParameterCounts(base=base, other=_PROMPT_METHODS[kind](config, model.config))
    if kind not in _LAYER_METHODS:
        known = ", ".join(sorted([*_PROMPT_METHODS, *_LAYER_METHODS]))
        raise ValueError(f"Expected a config of one of {known}, got {kind}")
    _check_closed_form(config, model)
    counts = {"other": _modules_to_save_numel(config, model)}
    for name, in_features, out_features in target_shapes(config, model):
        for part, count in _LAYER_METHODS[kind](config, name, in_features, out_features).items():
            counts[part] = counts.get(part, 0) + count
    return ParameterCounts(base=base, **counts)


def _check_closed_form(config: Any, model: nn.Module) -> None:
    """Raise ValueError if PEFT's LoRA would also adapt the fused experts of a mixture: there is no closed form then."""
    targets = config.target_modules
    takes_all = isinstance(targets, str) and targets.lower() == "all-linear"
    is_lora = config.peft_type.value == "LORA"
    names = [name for name, _, _ in target_shapes(config, model)]
    takes_experts = is_lora and fused_experts(model) and (takes_all or read_as_experts(model, names))
    if getattr(config, "target_parameters", None) or takes_experts:
        raise ValueError(
            "Expected target_modules that are linear layers, got parameters of fused experts too (target_parameters, "
            "'all-linear' on a mixture of experts, or names that PEFT reads as the experts). Name the layers one by "
            "one."
        )


def target_shapes(config: "PeftConfig", model: nn.Module) -> Iterator[tuple[str, int, int]]:
    """Name, in_features and out_features of each layer that a config adapts, by PEFT's own matching rules.

    For HydraLoRA, layers that an adapter cannot act on are skipped.
    """
    from peft.tuners.tuners_utils import (
        _get_in_out_features,
        _maybe_include_all_linear_layers,
        check_target_module_exists,
    )

    config = _maybe_include_all_linear_layers(copy.deepcopy(config), model)
    unfit = unfit_layers(model) if config.peft_type == "HYDRALORA" else {}
    for name, module in model.named_modules():
        if name not in unfit and check_target_module_exists(config, name):
            in_features, out_features = _get_in_out_features(module)
            yield name, in_features, out_features


def _lora(config: Any, name: str, in_features: int, out_features: int) -> dict[str, int]:
    r = _rank(config, name)
    return {"a": r * in_features, "b": out_features * r}


def _adalora(config: Any, name: str, in_features: int, out_features: int) -> dict[str, int]:
    r = config.init_r
    return {"a": r * in_features, "b": out_features * r, "other": r}


def _ia3(config: Any, name: str, in_features: int, out_features: int) -> dict[str, int]:
    is_feedforward = name.endswith(tuple(config.feedforward_modules))
    return {"other": in_features if is_feedforward else out_features}


def _hydralora(config: Any, name: str, in_features: int, out_features: int) -> dict[str, int]:
    r, num_experts = _rank(config, name), config.num_experts
    num_a = 1 if config.shared_a else num_experts + config.shared_expert
    router_inputs = {"low_rank": num_a * r, "hidden": in_features}.get(config.router_input, 0)
    return {
        "a": num_a * r * in_features,
        "b": out_features * num_experts * r,
        "router": num_experts * router_inputs if num_experts > 1 else 0,
        "shared_expert": out_features * r if config.shared_expert else 0,
        "shared_lora": config.shared_rank * (in_features + out_features),
    }


def _rank(config: Any, name: str) -> int:
    from peft.utils.other import get_pattern_key

    return int(config.rank_pattern.get(get_pattern_key(config.rank_pattern, name), config.r))


def _prefix_tuning(config: Any, base: Any) -> int:
    """Keys and values of every layer, without `prefix_projection`, which we do not use."""
    heads = getattr(base, "num_key_value_heads", None) or base.num_attention_heads
    head_dim = getattr(base, "head_dim", None) or base.hidden_size // base.num_attention_heads
    return int(config.num_virtual_tokens * base.num_hidden_layers * 2 * heads * head_dim)


def _prompt_tuning(config: Any, base: Any) -> int:
    return int(config.num_virtual_tokens * base.hidden_size)


def _p_tuning(config: Any, base: Any) -> int:
    """Virtual tokens, a bidirectional LSTM of `encoder_num_layers`, and two linear layers."""
    d, h = base.hidden_size, config.encoder_hidden_size
    inputs = [d] + [2 * h] * (config.encoder_num_layers - 1)
    # An LSTM has four gates in two directions; each has weights for input and state, and two biases.
    lstm = sum(2 * 4 * h * (n + h + 2) for n in inputs)
    mlp = (2 * h) * (2 * h) + 2 * h + 2 * h * d + d
    return int(config.num_virtual_tokens * d + lstm + mlp)


_LAYER_METHODS = {"LORA": _lora, "ADALORA": _adalora, "IA3": _ia3, "HYDRALORA": _hydralora}
_WHOLE = ("prompt_encoder", "modules_to_save")  # other name parts that stand before an adapter's name
_PROMPT_METHODS = {"PREFIX_TUNING": _prefix_tuning, "PROMPT_TUNING": _prompt_tuning, "P_TUNING": _p_tuning}


def _kind(name: str, model: "PeftModel", adapter_name: str) -> str | None:
    """Field of `ParameterCounts` for a parameter of a PEFT model; None if it is not counted (other adapters, ranks)."""
    prefix = getattr(model.base_model, "prefix", "no adapter layers")
    parts = name.split(".")
    marked = [i for i, part in enumerate(parts) if part in _WHOLE or part == "ranknum" or part.startswith(prefix)]
    if not marked:
        return "base"
    part, owner = parts[marked[0]], parts[marked[0] + 1]
    if owner != adapter_name or part == "ranknum":  # AdaLoRA's current ranks are never trained
        return None
    return {"A": "a", "B": "b", "router": "router"}.get(part.removeprefix(prefix), "other")


def _modules_to_save_numel(config: Any, model: nn.Module) -> int:
    saved = tuple(config.modules_to_save or ())
    return sum(_numel(module) for name, module in model.named_modules() if name.split(".")[-1] in saved)


def _numel(model: nn.Module) -> int:
    return sum(_parameter_numel(parameter) for parameter in model.parameters())


def _parameter_numel(parameter: nn.Parameter) -> int:
    # bitsandbytes packs two 4-bit weights into a byte and stores the original shape.
    quant_state = getattr(parameter, "quant_state", None)
    return parameter.numel() if quant_state is None else math.prod(quant_state.shape)
