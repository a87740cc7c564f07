"""Exports HydraLoRA as plain LoRA: for fixed gates g, sum_i g_i B_i with the shared A is exactly a LoRA of rank r.

No such LoRA exists if the gates depend on the input. Then an export only approximates routed gates; measure the error
with `compare_with_live`. An export runs wherever a LoRA runs and does not need this package. Gates can be measured once
(`calibrate_gates`) or for each group (`calibrate_gates_by_group`), which gives one adapter per group.
"""

import copy
import dataclasses
import json
import math
import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn

from hydralora.adapter.card import sort_adapter_configs, write_export_card
from hydralora.adapter.layer import HydraLoraLayer
from hydralora.adapter.state import (
    AdapterState,
    adapter_state,
    base_of,
    hydralora_layers,
    plain_name,
    refuse_adapters_below,
    refuse_unmergeable_weights,
    unwrapped,
)
from hydralora.adapter.unfit_layers import read_as_experts
from hydralora.base_model import EMBEDDED, EMBEDDED_ON_HUB, provision_embedded_base_model
from hydralora.gates.fixed import GateSpec, resolve_gates, set_fixed_gates

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

_WEIGHTS_NAME = "adapter_model.safetensors"


def to_lora(
    model: "PeftModel", gates: GateSpec | None = None, adapter_name: str = "default", portable: bool = True
) -> tuple["LoraConfig", dict[str, Tensor]]:
    """Config and state dict of the plain LoRA that equals the adapter with fixed gates.

    Its rank is r; with an `A_i` for each expert (`shared_a=False`) it is N r. A shared expert is added with gate 1. A
    shared LoRA adds its rank: its A is stacked below the experts' A, its B beside their B.

    Fully trained modules (`modules_to_save`) and resized embeddings belong to the adapter too, as when PEFT saves it.
    Layers may be merged, disabled, inactive or compiled; the export is the same.

    Args:
        gates: Gates by layer name, one vector [N] for all layers, the index of one expert, or "uniform". None uses the
            gates that are already fixed (fixed or uniform gates, or a single expert).
        portable: Whether to export for servers that support only one rank and one alpha (vLLM, llama.cpp). If so,
            alpha / r is folded into B, all ranks are padded with zeros to the largest, and patterns and rslora are
            removed. Otherwise r, alpha and patterns stay unchanged, as further training needs them.

    Raises:
        ValueError: If there are no gates, the gates do not fit, a portable export would contain trained modules, which
            servers do not load, or PEFT would read a layer's name as the experts of a mixture (a warning if portable).
    """
    layers = hydralora_layers(model, adapter_name)
    refuse_adapters_below(model, "export a plain LoRA")
    _check_names(base_of(model), layers, portable)
    vectors = resolve_gates(model, gates, adapter_name)
    config = unwrapped(model).peft_config[adapter_name]
    state = _whole_modules(model, adapter_state(model, adapter_name))
    if portable and state:
        raise ValueError(
            f"Expected only low-rank factors in a portable adapter, got also {', '.join(sorted(state))}: "
            f"vLLM and llama.cpp load no such weights. Pass portable=False for an adapter that PEFT loads."
        )
    factors = {name: lora_factors(layer, adapter_name, vectors[name]) for name, layer in layers.items()}
    max_rank = max(len(a) for a, _ in factors.values())
    for name, (a, b) in factors.items():
        if portable:
            scaled = (b.float() * layers[name].scaling[adapter_name]).to(b.dtype)
            a, b = _pad(a, 0, max_rank), _pad(scaled, 1, max_rank)
        key = f"base_model.model.{name}"
        # A may be the adapter's own weight, which further training would change in the exported state.
        state[f"{key}.lora_A.weight"], state[f"{key}.lora_B.weight"] = a.detach().clone(), b.contiguous()
    lora = _lora_config(base_of(model), config, max_rank if portable else None)
    lora.target_modules = _target_modules(base_of(model), config, layers)
    if config.shared_rank and not portable:
        _set_ranks(lora, {name: (len(a), layers[name].scaling[adapter_name]) for name, (a, _) in factors.items()})
    return lora, state


def _whole_modules(model: "PeftModel", state: AdapterState) -> dict[str, Tensor]:
    """Weights that PEFT saves beside the factors: `modules_to_save`, and resized embeddings."""
    from peft import get_peft_model_state_dict

    inner = unwrapped(model)
    resized = _vocabulary_was_resized(base_of(inner), inner.peft_config[state.name])
    saved = get_peft_model_state_dict(inner, adapter_name=state.name, save_embedding_layers=resized)
    prefix = "" if state.has_peft_model else "base_model.model."
    whole = {prefix + plain_name(key): tensor for key, tensor in saved.items() if ".hydralora_" not in key}
    if state.merged and any(".base_layer." in key for key in whole):
        state.refuse_merged("export embeddings that are adapted themselves", any_adapter=True)
    return whole


def _vocabulary_was_resized(base: Any, config: Any) -> bool:
    """Compare with the base model's own config, from disk or from the hub's local cache; False if there is none."""
    from transformers import AutoConfig

    name = config.base_model_name_or_path or getattr(base, "name_or_path", None)
    if not name or not hasattr(base, "config"):
        return False
    try:
        path = provision_embedded_base_model() if name == EMBEDDED else name
        original = AutoConfig.from_pretrained(path, revision=config.revision, local_files_only=True)
    except (OSError, ValueError):
        return False
    sizes = [getattr(c.get_text_config(), "vocab_size", None) for c in (original, base.config)]
    return sizes[0] != sizes[1]


def export_lora(
    model: "PeftModel",
    save_directory: str | os.PathLike[str],
    gates: GateSpec | None = None,
    adapter_name: str = "default",
    portable: bool = True,
) -> None:
    """Write the result of `to_lora` as an adapter folder that `PeftModel.from_pretrained` loads without this package.

    A card (`README.md`) says which gates it has, and how to load and serve it; one that somebody else wrote stays.
    Each file is written atomically. For the arguments and other errors, see `to_lora`.

    Raises:
        ValueError: If the folder holds an adapter of another kind, such as the HydraLoRA adapter itself: its weights
            would be lost.
    """
    from safetensors.torch import save_file

    folder = Path(save_directory)
    _refuse_other_adapter(folder)
    config, state = to_lora(model, gates, adapter_name, portable)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        config.save_pretrained(partial)
        sort_adapter_configs(Path(partial))
        tensors = {key: tensor.detach().cpu() for key, tensor in state.items()}
        save_file(tensors, Path(partial) / _WEIGHTS_NAME, metadata={"format": "pt"})
        for path in Path(partial).iterdir():
            os.replace(path, folder / path.name)
    write_export_card(folder, config.to_dict(), _in_words(resolve_gates(model, gates, adapter_name)), portable)


def _refuse_other_adapter(folder: Path) -> None:
    path = folder / "adapter_config.json"
    kind = json.loads(path.read_text()).get("peft_type") if path.exists() else "LORA"
    if kind != "LORA":
        raise ValueError(
            f"Expected a folder without another adapter, got {folder} with one of kind {kind}, whose weights the "
            f"export would replace. Export into a folder of its own."
        )


def _in_words(gates: dict[str, Tensor]) -> str:
    """A sentence about gates [N] by layer."""
    first, *others = (vector.tolist() for vector in gates.values())
    if any(vector != first for vector in others):
        return f"Its {len(first)} gates differ from layer to layer."
    if not any(first):
        return "No expert is on, only the part that is always on."
    if sorted(first) == [0.0] * (len(first) - 1) + [1.0]:
        return f"Expert {first.index(1.0)} of {len(first)} (counted from 0) alone."
    return f"Gates of its {len(first)} experts: {', '.join(f'{gate:.3g}' for gate in first)}."


def to_merged(model: "PeftModel", gates: GateSpec | None = None, adapter_name: str = "default") -> "PreTrainedModel":
    """Merge the adapter with fixed gates into the base model, remove all adapters, and return the base model.

    Like PEFT's `merge_and_unload`, this changes the base model in place. The update is added in float32 or wider and
    rounded once. Adapters that are already merged are unmerged first, except this adapter with these gates.

    Raises:
        ValueError: If a layer cannot be merged into, or its weight is tied to another module's; the model is not a
            `PeftModel`; or the gates are wrong as in `to_lora`. The model is then unchanged.
    """
    state = adapter_state(model, adapter_name)
    state.refuse_without_peft_model("merge an adapter for good")
    state.refuse_compiled_layers("merge an adapter for good")
    refuse_adapters_below(model, "merge an adapter for good")
    vectors = resolve_gates(model, gates, adapter_name)
    layers = hydralora_layers(model, adapter_name)
    for name, layer in layers.items():
        layer.check_values(adapter_name)
        backend = layer.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise ValueError(f"Cannot merge into layer {name}: {backend.backend_name} weights cannot be changed")
    refuse_unmergeable_weights(base_of(model), [adapter_name])
    inner = unwrapped(model)
    inner.base_model.enable_adapter_layers()  # PEFT's `unload` drops the trained modules of a disabled adapter
    if state.merged == (adapter_name,) and state.active and _have_gates(layers, vectors, adapter_name):
        return inner.unload()
    if state.merged:
        inner.unmerge_adapter()
    inner.set_adapter(adapter_name)
    set_fixed_gates(inner, vectors, adapter_name)
    return inner.merge_and_unload(adapter_names=[adapter_name])


def _have_gates(layers: dict[str, HydraLoraLayer], vectors: dict[str, Tensor], adapter_name: str) -> bool:
    """Whether the adapter is merged in every layer with exactly these gates."""
    fixed = {name: layer.fixed_gates(adapter_name) for name, layer in layers.items() if layer.merged}
    return set(fixed) == set(layers) and all(
        gates is not None and torch.equal(gates.float(), vectors[name].float()) for name, gates in fixed.items()
    )


def lora_factors(layer: HydraLoraLayer, adapter_name: str, gates: Tensor) -> tuple[Tensor, Tensor]:
    """A [r', in] and B [out, r'] with B A = sum_i g_i B_i A_i (plus the shared expert or LoRA), without scaling, in the
    dtypes of the adapter's A and B. See `HydraLoraLayer.lora_factors`.

    Args:
        gates: Gates [N].
    """
    a, b = layer.lora_factors(adapter_name, gates)
    # They are computed in float32 or wider and rounded only here.
    return a.to(layer.hydralora_A[adapter_name].weight.dtype), b.to(layer.hydralora_B[adapter_name].weight.dtype)


def _pad(factor: Tensor, dim: int, rank: int) -> Tensor:
    """Pad a factor with zeros to a rank; B A stays the same."""
    missing = rank - factor.shape[dim]
    return torch.nn.functional.pad(factor, (0, 0, 0, missing) if dim == 0 else (0, missing))


def _lora_config(base: Any, config: Any, portable_rank: int | None) -> "LoraConfig":
    from peft import LoraConfig

    shared = {field.name for field in dataclasses.fields(LoraConfig)} & {f.name for f in dataclasses.fields(config)}
    values = {name: copy.copy(getattr(config, name)) for name in shared - {"peft_type", "init_weights"}}
    lora = LoraConfig(**{**values, "init_lora_weights": True, "inference_mode": True})
    lora.base_model_name_or_path = config.base_model_name_or_path or getattr(base, "name_or_path", None) or None
    if lora.base_model_name_or_path == EMBEDDED:
        lora.base_model_name_or_path = EMBEDDED_ON_HUB  # other software knows only this name
    if portable_rank is not None:
        lora.r = lora.lora_alpha = portable_rank
        lora.rank_pattern, lora.alpha_pattern, lora.use_rslora = {}, {}, False
    elif not config.shared_a:
        # The rank is multiplied by the number of blocks; alpha grows so that alpha / r (or / sqrt(r)) stays the same.
        blocks = config.num_experts + config.shared_expert
        growth = math.sqrt(blocks) if config.use_rslora else blocks
        lora.r, lora.lora_alpha = lora.r * blocks, lora.lora_alpha * growth
        lora.rank_pattern = {key: r * blocks for key, r in lora.rank_pattern.items()}
        lora.alpha_pattern = {key: alpha * growth for key, alpha in lora.alpha_pattern.items()}
    return lora


def _check_names(base: Any, layers: Iterable[str], portable: bool) -> None:
    """Refuse layers whose names PEFT would read as the fused experts of a mixture; warn if portable."""
    misread = read_as_experts(base, layers)
    if not misread:
        return
    message = (
        f"PEFT's LoRA reads the names of {len(misread)} adapted layers, such as {misread[0]}, as the fused experts of "
        f"the mixture, and would drop their weights. Exclude such layers from the adapter (`exclude_modules`)"
    )
    if not portable:
        raise ValueError(f"{message}, or pass portable=True for servers other than PEFT.")
    warnings.warn(f"{message}. Servers other than PEFT are not concerned.", stacklevel=3)


def _target_modules(base: nn.Module, config: Any, layers: Iterable[str]) -> Any:
    """Targets for PEFT that name exactly these layers: the adapter's own, unless layers were left alone."""
    names = [plain_name(name) for name, _ in base.named_modules() if ".hydralora_" not in name]
    told = {name for name in names if check_target_module_exists(config, name) and not name.endswith(".base_layer")}
    return config.target_modules if told == set(layers) else sorted(layers)


def _set_ranks(lora: "LoraConfig", layers: dict[str, tuple[int, float]]) -> None:
    """Set rank and alpha from each layer's (rank, scaling): the most common pair as default, patterns for the rest."""
    power = 0.5 if lora.use_rslora else 1
    wanted = {name: (rank, _whole(scaling * rank**power)) for name, (rank, scaling) in layers.items()}
    (lora.r, lora.lora_alpha), _ = Counter(wanted.values()).most_common(1)[0]
    lora.rank_pattern = {name: rank for name, (rank, _) in wanted.items() if rank != lora.r}
    lora.alpha_pattern = {name: alpha for name, (_, alpha) in wanted.items() if alpha != lora.lora_alpha}


def _whole(alpha: float) -> float:
    """Round 3.0000000000000004 to 3, because PEFT types alpha as an integer; other values stay."""
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha
