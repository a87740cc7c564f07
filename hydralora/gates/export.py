"""HydraLoRA as plain LoRA: for fixed gates g, sum_i g_i B_i with the shared A is a LoRA of rank r, exactly.

While gates depend on the input there is no such LoRA, so an export is an approximation of live routing (measure it with
`compare_with_live`), but it serves wherever a LoRA does and needs nothing of this package. Gates can be measured once
(`calibrate_gates`) or for each domain (`calibrate_gates_by_group`), which gives one adapter a domain.
"""

import copy
import dataclasses
import math
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hydralora.adapter.layer import HydraLoraLayer
from hydralora.adapter.saved_config import sort_adapter_configs
from hydralora.adapter.state import AdapterState, adapter_state, base_of, hydralora_layers, plain_name, unwrapped
from hydralora.base_model import EMBEDDED, EMBEDDED_ON_HUB, provision_embedded_base_model
from hydralora.gates.fixed import GateSpec, resolve_gates, set_fixed_gates

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

_WEIGHTS_NAME = "adapter_model.safetensors"


def to_lora(
    model: "PeftModel", gates: GateSpec | None = None, adapter_name: str = "default", portable: bool = True
) -> tuple["LoraConfig", dict[str, Tensor]]:
    """Config and state dict of the plain LoRA that equals the adapter under fixed gates.

    Its rank is r; with an `A_i` for each expert (`shared_a=False`) it is N r. An expert that is always on is added with
    gate 1. A shared LoRA adds its rank: the A of both stand below each other, their B side by side.

    Args:
        gates: of each layer by name, one vector [N] for all layers, the number of one expert, or "uniform"; default
            those that are fixed already (static or uniform gates, or a single expert).
        portable: for servers that know one rank and one alpha (vLLM, llama.cpp): alpha / r is folded into B, ranks are
            padded with zeros to the largest, patterns and rslora are gone. Otherwise r, alpha and patterns stay as they
            are, as further training wants them.

    Weights that are trained whole (`modules_to_save`) and embeddings whose size was changed belong to the adapter too,
    as when PEFT saves it. Layers may be merged, disabled, inactive or compiled: what is exported does not change.

    Raises:
        ValueError: no gates, gates that do not fit, or a portable export of trained modules that servers do not load.
    """
    layers = hydralora_layers(model, adapter_name)
    vectors = resolve_gates(model, gates, adapter_name)
    config = unwrapped(model).peft_config[adapter_name]
    state = _whole_modules(model, adapter_state(model, adapter_name))
    if portable and state:
        raise ValueError(
            f"Expected low-rank factors alone in a portable adapter, got also {', '.join(sorted(state))}: "
            f"vLLM and llama.cpp load no such weights. Pass portable=False for an adapter that PEFT loads."
        )
    factors = {name: lora_factors(layer, adapter_name, vectors[name]) for name, layer in layers.items()}
    max_rank = max(len(a) for a, _ in factors.values())
    for name, (a, b) in factors.items():
        if portable:
            scaled = (b.float() * layers[name].scaling[adapter_name]).to(b.dtype)
            a, b = _pad(a, 0, max_rank), _pad(scaled, 1, max_rank)
        key = f"base_model.model.{name}"
        state[f"{key}.lora_A.weight"], state[f"{key}.lora_B.weight"] = a.contiguous(), b.contiguous()
    lora = _lora_config(base_of(model), config, max_rank if portable else None)
    if config.shared_rank and not portable:
        _set_ranks(lora, {name: (len(a), layers[name].scaling[adapter_name]) for name, (a, _) in factors.items()})
    return lora, state


def _whole_modules(model: "PeftModel", state: AdapterState) -> dict[str, Tensor]:
    """What the adapter has beside its factors, as PEFT saves it: `modules_to_save`, and embeddings of another size than
    the base model's."""
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
    """Against the base model's own config, read from disk or from the hub's local cache; False where there is none."""
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
    """Write `to_lora` as an adapter folder that `PeftModel.from_pretrained` loads without this package.

    Each file appears whole or not at all.
    """
    from safetensors.torch import save_file

    config, state = to_lora(model, gates, adapter_name, portable)
    folder = Path(save_directory)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        config.save_pretrained(partial)
        sort_adapter_configs(Path(partial))
        tensors = {key: tensor.detach().cpu() for key, tensor in state.items()}
        save_file(tensors, Path(partial) / _WEIGHTS_NAME, metadata={"format": "pt"})
        for path in Path(partial).iterdir():
            os.replace(path, folder / path.name)


def to_merged(model: "PeftModel", gates: GateSpec | None = None, adapter_name: str = "default") -> "PreTrainedModel":
    """The base model with the adapter, under fixed gates, merged into its weights; all adapters are removed from it.

    As PEFT's `merge_and_unload`, this changes the base model in place. Deltas are added in float32 or wider and rounded
    once. Adapters that are merged already are unmerged first, unless they are what is wanted.

    Raises:
        ValueError: layers of a kind that cannot be merged into, a model that is no `PeftModel`, or gates as in
            `to_lora`. The model is then as it was.
    """
    state = adapter_state(model, adapter_name)
    state.refuse_without_peft_model("merge an adapter for good")
    state.refuse_compiled_layers("merge an adapter for good")
    vectors = resolve_gates(model, gates, adapter_name)
    layers = hydralora_layers(model, adapter_name)
    for name, layer in layers.items():
        backend = layer.quantization_backend
        if backend is not None and not backend.supports_merge:
            raise ValueError(f"Cannot merge into layer {name}: {backend.backend_name} weights cannot be changed")
    inner = unwrapped(model)
    if state.merged == (adapter_name,) and state.active and _have_gates(layers, vectors, adapter_name):
        return _base_model(inner.unload())
    if state.merged:
        inner.unmerge_adapter()
    inner.set_adapter(adapter_name)
    set_fixed_gates(inner, vectors, adapter_name)
    return _base_model(inner.merge_and_unload(adapter_names=[adapter_name]))


def _have_gates(layers: dict[str, HydraLoraLayer], vectors: dict[str, Tensor], adapter_name: str) -> bool:
    """Whether the adapter is merged in every layer with just these gates."""
    fixed = {name: layer.fixed_gates(adapter_name) for name, layer in layers.items() if layer.merged}
    return set(fixed) == set(layers) and all(
        gates is not None and torch.equal(gates.float(), vectors[name].float()) for name, gates in fixed.items()
    )


def _base_model(model: Any) -> "PreTrainedModel":
    base: PreTrainedModel = model
    return base


def lora_factors(layer: HydraLoraLayer, adapter_name: str, gates: Tensor) -> tuple[Tensor, Tensor]:
    """A [r', in] and B [out, r'] with B A = sum_i g_i B_i A_i (plus what is always on), without scaling, in the
    dtypes of the adapter's A and B. See `HydraLoraLayer.lora_factors`.

    Args:
        gates: [N].
    """
    a, b = layer.lora_factors(adapter_name, gates)
    # Computed in float32 at least, then rounded once.
    return a.to(layer.hydralora_A[adapter_name].weight.dtype), b.to(layer.hydralora_B[adapter_name].weight.dtype)


def _pad(factor: Tensor, dim: int, rank: int) -> Tensor:
    """Zeros up to a rank add nothing to B A."""
    missing = rank - factor.shape[dim]
    return torch.nn.functional.pad(factor, (0, 0, 0, missing) if dim == 0 else (0, missing))


def _lora_config(base: Any, config: Any, portable_rank: int | None) -> "LoraConfig":
    from peft import LoraConfig

    shared = {field.name for field in dataclasses.fields(LoraConfig)} & {f.name for f in dataclasses.fields(config)}
    values = {name: copy.copy(getattr(config, name)) for name in shared - {"peft_type", "init_weights"}}
    lora = LoraConfig(**{**values, "init_lora_weights": True, "inference_mode": True})
    lora.base_model_name_or_path = config.base_model_name_or_path or getattr(base, "name_or_path", None) or None
    if portable_rank is not None:
        if lora.base_model_name_or_path == EMBEDDED:
            lora.base_model_name_or_path = EMBEDDED_ON_HUB  # a name that others know
        lora.r = lora.lora_alpha = portable_rank
        lora.rank_pattern, lora.alpha_pattern, lora.use_rslora = {}, {}, False
    elif not config.shared_a:
        # The rank grows by the number of blocks: alpha grows so that alpha / r (or / sqrt r) stays.
        blocks = config.num_experts + config.shared_expert
        growth = math.sqrt(blocks) if config.use_rslora else blocks
        lora.r, lora.lora_alpha = lora.r * blocks, lora.lora_alpha * growth
        lora.rank_pattern = {key: r * blocks for key, r in lora.rank_pattern.items()}
        lora.alpha_pattern = {key: alpha * growth for key, alpha in lora.alpha_pattern.items()}
    return lora


def _set_ranks(lora: "LoraConfig", layers: dict[str, tuple[int, float]]) -> None:
    """Rank and alpha of each layer, by (rank, scaling): those of most layers for all, patterns for the others."""
    power = 0.5 if lora.use_rslora else 1
    wanted = {name: (rank, _whole(scaling * rank**power)) for name, (rank, scaling) in layers.items()}
    (lora.r, lora.lora_alpha), _ = Counter(wanted.values()).most_common(1)[0]
    lora.rank_pattern = {name: rank for name, (rank, _) in wanted.items() if rank != lora.r}
    lora.alpha_pattern = {name: alpha for name, (_, alpha) in wanted.items() if alpha != lora.lora_alpha}


def _whole(alpha: float) -> float:
    """3.0000000000000004 -> 3: PEFT types alpha as an integer, and reads others too."""
    return round(alpha) if math.isclose(alpha, round(alpha), rel_tol=1e-12) else alpha
