"""Changes the number of experts of an adapter, with a known effect on its outputs.

`upcycle` turns a trained plain LoRA into N experts and does not change the outputs. The other functions edit the
experts of every layer in place. Gates are a softmax without bias, so these edits must change outputs; each docstring
states the effect on gates and outputs. Fixed gates [N] no longer fit, so they are removed with a warning. Create a new
optimizer afterwards, because the parameters are replaced.
"""

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from hydralora.adapter.config import HydraLoraConfig
from hydralora.adapter.layer import HydraLoraLayer
from hydralora.adapter.model import is_linear
from hydralora.adapter.state import (
    adapter_state,
    base_of,
    configs_of,
    hydralora_layers,
    plain_name,
    refuse_adapters_below,
    unwrapped,
)
from hydralora.adapter.unfit_layers import unfit_reason
from hydralora.ops.eager import expert_part

if TYPE_CHECKING:
    from peft import PeftModel

_SHARED_FIELDS = (
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "lora_dropout", "fan_in_fan_out"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save", "task_type"),
)

# Fields of a LoRA that do not affect what it computes, or only if another field is set too.
_NEUTRAL_FIELDS = (
    *("peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("init_lora_weights", "loftq_config", "eva_config", "megatron_core", "qalora_group_size", "runtime_config"),
)
_INITS_THAT_KEEP_THE_BASE = (True, False, None, "gaussian", "orthogonal", "eva")

# (B_i [N, out, r], rows of the router [N, d] or None) -> the same for the new experts
Edit = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


def upcycle(
    model: "PeftModel", num_experts: int, adapter_name: str = "default", router_input: str = "low_rank"
) -> "PeftModel":
    """Turn a plain LoRA into a HydraLoRA whose N experts all start as its B; the outputs do not change.

    All gates sum to 1, so sum_i g_i B = B. The router starts at random (seed it with `torch.manual_seed`), so the
    experts get differently weighted gradients and become different.

    Args:
        model: A model with one plain LoRA adapter. Its layers are replaced in place; a merged adapter is unmerged
            first.
        router_input: "low_rank" or "hidden".

    Returns:
        A new PEFT model around the same base model.

    Raises:
        ValueError: If there is no LoRA of that name, it has parts that HydraLoRA does not have (DoRA, biases, trained
            tokens, a changed base model), or the model has other adapters. The model is then unchanged.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    model = unwrapped(model)
    _check_upcyclable(model, adapter_name)
    lora = model.peft_config[adapter_name]
    fields = {name: copy.deepcopy(getattr(lora, name)) for name in _SHARED_FIELDS}
    config = HydraLoraConfig(**fields, num_experts=num_experts, router_input=router_input, revision=lora.revision)
    if adapter_state(model, adapter_name).merged:
        model.unmerge_adapter()
    trained = get_peft_model_state_dict(model, adapter_name=adapter_name, save_embedding_layers=False)
    was_training, base = model.training, model.unload()
    known = {id(module) for module in base.modules()}
    upcycled = get_peft_model(base, config, adapter_name=adapter_name)
    for module in upcycled.modules():
        if id(module) not in known:  # else new layers would drop out in a model that is evaluated
            module.training = was_training
    state = get_peft_model_state_dict(upcycled, adapter_name=adapter_name, save_embedding_layers=False)
    for key, tensor in trained.items():
        copies = num_experts if ".lora_B." in key else 1
        state[key.replace(".lora_", ".hydralora_")] = tensor.repeat(1, copies) if copies > 1 else tensor
    set_peft_model_state_dict(upcycled, state, adapter_name=adapter_name)
    return upcycled


def _check_upcyclable(model: "PeftModel", adapter_name: str) -> None:
    """Raise all errors of `upcycle` before it changes anything."""
    lora = configs_of(model).get(adapter_name)
    if lora is None or lora.peft_type.value != "LORA":
        raise ValueError(
            f"Expected a plain LoRA adapter {adapter_name!r}, got the adapters {sorted(configs_of(model))}"
        )
    extra = [*_extra_parts(lora), *_extra_layers(model, adapter_name)]
    if extra:
        raise ValueError(f"Expected a plain LoRA, got one with {', '.join(extra)}, which experts do not have")
    state = adapter_state(model, adapter_name)
    state.refuse_without_peft_model("upcycle a LoRA")
    state.refuse_compiled_layers("upcycle a LoRA")
    refuse_adapters_below(model, "upcycle a LoRA")
    if state.others:
        raise ValueError(
            f"Expected a model with the adapter {adapter_name!r} alone, got also {', '.join(state.others)}; they "
            f"would be lost. Delete them first (`delete_adapter`)."
        )


def _extra_parts(lora: "LoraConfig") -> list[str]:
    """Config fields with which a LoRA is not plain: it is more than B A, or its base model was changed."""
    plain = LoraConfig()
    known = {*_SHARED_FIELDS, *_NEUTRAL_FIELDS}
    fields = [field.name for field in dataclasses.fields(lora) if field.name not in known]
    extra = [name for name in fields if getattr(lora, name) and getattr(lora, name) != getattr(plain, name, None)]
    if lora.init_lora_weights not in _INITS_THAT_KEEP_THE_BASE:
        extra.append(f"a base model changed by init_lora_weights={lora.init_lora_weights!r}")
    return extra


def _extra_layers(model: "PeftModel", adapter_name: str) -> list[str]:
    """Layers that are not linear or not fit for experts, use a variant of LoRA, or have a scaling set by hand."""
    extra, base = [], base_of(model)
    for name, layer in base.named_modules():
        if not isinstance(layer, LoraLayer) or adapter_name not in layer.scaling:
            continue
        rank, alpha = layer.r[adapter_name], layer.lora_alpha[adapter_name]
        usual = (alpha / rank, alpha / math.sqrt(rank))
        if not is_linear(layer.get_base_layer()):
            extra.append(f"an adapted {type(layer.get_base_layer()).__name__} ({plain_name(name)})")
        elif getattr(layer, "lora_variant", {}).get(adapter_name):
            extra.append(f"a variant of LoRA ({plain_name(name)})")
        elif reason := _unfit(base, name, layer):
            extra.append(f"a layer on which experts would have no effect ({plain_name(name)}: {reason})")
        elif not any(math.isclose(layer.scaling[adapter_name], scaling) for scaling in usual):
            extra.append(f"a scaling set by hand ({plain_name(name)})")
    return extra[:3]


def _unfit(base: nn.Module, name: str, layer: LoraLayer) -> str | None:
    """Why experts on the layer would not work; None if they would."""
    parent, _, own_name = name.rpartition(".")
    return unfit_reason(base.get_submodule(parent), own_name, layer.get_base_layer())


def add_expert(model: "PeftModel", copy_of: int | None = None, adapter_name: str = "default") -> None:
    """Add an expert after the last routed one.

    Effect with `copy_of=i`: the new expert has expert i's B and router row. Gates become g_j / (1 + g_i), and the pair
    together gets 2 g_i / (1 + g_i), so outputs move towards expert i. Effect without it: the new B is zero and the
    router row random (seed it with `torch.manual_seed`), so the experts' update is multiplied by 1 - g_new. Given gates
    (router_input="given") need one more entry.

    Args:
        copy_of: Index of the expert to copy; None adds an expert with B = 0.

    Raises:
        ValueError: If there is no such expert, or the edit is not defined for the adapter's experts.
    """

    def edit(experts: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if copy_of is not None:
            return _append(experts, experts[copy_of]), None if rows is None else _append(rows, rows[copy_of])
        new_rows = None if rows is None else _append(rows, _random_row(rows))
        return _append(experts, torch.zeros_like(experts[0])), new_rows

    if copy_of is not None:
        _check_experts(model, adapter_name, [copy_of])
    _edit_experts(model, adapter_name, +1, edit)


def drop_expert(model: "PeftModel", expert: int, adapter_name: str = "default") -> None:
    """Remove an expert.

    Effect: the softmax runs over the remaining experts, so their gates become g_j / (1 - g_dropped).

    Raises:
        ValueError: If there is no such expert, it is the only one, or the edit is not defined for the adapter's
            experts.
    """
    _check_experts(model, adapter_name, [expert])

    def edit(experts: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return _without(experts, expert), None if rows is None else _without(rows, expert)

    _edit_experts(model, adapter_name, -1, edit)


def merge_experts(
    model: "PeftModel", experts: tuple[int, int], weight: float = 0.5, adapter_name: str = "default"
) -> None:
    """Replace two experts by one, at the index of the first.

    Effect: the new B and router row are `weight` times the first's plus (1 - weight) times the second's, so the new
    logit is the same weighted mean. Merging the last two experts gives the plain LoRA with gates (weight, 1 - weight).

    Raises:
        ValueError: If these are not two experts of the adapter, or the edit is not defined for the adapter's experts.
    """
    first, second = experts
    _check_experts(model, adapter_name, experts)
    if first == second:
        raise ValueError(f"Expected two different experts to merge, got {first} twice")

    def edit(blocks: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return merged(blocks), None if rows is None else merged(rows)

    def merged(values: Tensor) -> Tensor:
        result = values.clone()
        result[first] = torch.lerp(values[second], values[first], weight)
        return _without(result, second)

    _edit_experts(model, adapter_name, -1, edit)


def _edit_experts(model: "PeftModel", adapter_name: str, change: int, edit: Edit) -> None:
    """Replace B and router of every layer; the shared expert or shared LoRA stays last."""
    layers = hydralora_layers(model, adapter_name)
    adapter_state(model, adapter_name).refuse_merged("change experts", any_adapter=False)
    configs = unwrapped(model).peft_config
    config = configs[adapter_name]
    if not config.shared_a:
        raise ValueError(
            "Expected experts that share one A, got one A for each (shared_a=False): no edit is defined for them"
        )
    if config.num_experts == 1 and change > 0 and config.router_input in ("low_rank", "hidden"):
        raise ValueError(
            "Expected at least two experts, got one, which has no router: export it as a plain LoRA "
            "(`export_lora`) and `upcycle` that"
        )
    for layer in layers.values():
        layer.check_values(adapter_name)
    if any(adapter_name in layer.fixed_gate_vectors for layer in layers.values()):
        warnings.warn(
            f"The fixed gates of adapter {adapter_name!r} are removed, because they were for {config.num_experts} "
            f"experts: call `set_fixed_gates` again.",
            stacklevel=3,
        )
    for layer in layers.values():
        _edit_layer(layer, adapter_name, edit)
    # Replace, not mutate: one config object may belong to several adapters or models.
    configs[adapter_name] = dataclasses.replace(config, num_experts=config.num_experts + change)


@torch.no_grad()
def _edit_layer(layer: HydraLoraLayer, adapter_name: str, edit: Edit) -> None:
    b = layer.hydralora_B[adapter_name]
    num_experts = layer.num_experts[adapter_name]
    shared_rank = layer.shared_rank[adapter_name]
    experts = expert_part(b.weight, shared_rank)
    blocks = experts.unflatten(1, (-1, layer.r[adapter_name])).movedim(1, 0)  # [E, out, r]
    routed, always_on = blocks[:num_experts], blocks[num_experts:]
    router = dict(layer.hydralora_router.items()).get(adapter_name)
    new_routed, new_rows = edit(routed, None if router is None else router.weight)
    new_blocks = torch.cat((new_routed, always_on))
    shared_lora = b.weight[:, experts.shape[1] :]  # unchanged, like its rows of A
    columns = torch.cat((new_blocks.movedim(0, 1).flatten(1), shared_lora), dim=1)
    layer.hydralora_B[adapter_name] = _linear_like(b, columns)
    layer.num_experts[adapter_name] = len(new_routed)
    if router is not None and new_rows is not None and len(new_rows) > 1:
        layer.hydralora_router[adapter_name] = _linear_like(router, new_rows)
    elif router is not None:  # a router for one expert would have no effect
        del layer.hydralora_router[adapter_name]
    if adapter_name in layer.fixed_gate_vectors:
        del layer.fixed_gate_vectors[adapter_name]


def _linear_like(linear: nn.Linear, weight: Tensor) -> nn.Linear:
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    new.weight = nn.Parameter(weight.contiguous(), requires_grad=linear.weight.requires_grad)
    return new


def _check_experts(model: "PeftModel", adapter_name: str, experts: Sequence[int]) -> None:
    hydralora_layers(model, adapter_name)
    num_experts = unwrapped(model).peft_config[adapter_name].num_experts
    unknown = [expert for expert in experts if not 0 <= expert < num_experts]
    if unknown or num_experts == 1:
        raise ValueError(
            f"Expected experts from 0 to {num_experts - 1} of at least two, got {list(experts)} of {num_experts}"
        )


def _append(values: Tensor, value: Tensor) -> Tensor:
    return torch.cat((values, value[None]))


def _without(values: Tensor, index: int) -> Tensor:
    return torch.cat((values[:index], values[index + 1 :]))


def _random_row(rows: Tensor) -> Tensor:
    """A router row, initialised like the layer's router."""
    row = torch.empty_like(rows[:1])
    nn.init.kaiming_uniform_(row, a=math.sqrt(5))
    return row[0]
