"""HydraLoRA's tuner: puts adapter layers into a base model, through PEFT's `BaseTuner` interface."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import (
    TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING,
    AuxiliaryTrainingWrapper,
    resolve_quantization_backend,
)
from peft.utils.other import get_pattern_key
from peft.utils.quantization_utils import get_quantization_kwargs
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hydralora.adapter.calls import stop_watching, watch_for_good
from hydralora.adapter.config import HydraLoraConfig
from hydralora.adapter.given_gates import expert_gates as given_gates
from hydralora.adapter.layer import HydraLoraLayer, merge_refusal
from hydralora.adapter.linear import HydraLoraLinear
from hydralora.adapter.state import names_outside_adapters, plain_name, refuse_unmergeable_weights
from hydralora.adapter.unfit_layers import fused_experts, switch_off_fast_path, unfit_reason

_HEADS = {"classifier", "score", "qa_outputs"}  # PEFT adds them by task; a model has one of them


class HydraLoraModel(BaseTuner):
    """Adds HydraLoRA (Tian et al., arXiv 2404.19245) to a base model; `peft.get_peft_model` creates it."""

    prefix = "hydralora_"
    tuner_layer_cls = HydraLoraLayer
    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def forward(self, *args: Any, expert_gates: Tensor | None = None, **kwargs: Any) -> Any:
        """The base model's forward pass.

        Args:
            expert_gates: Gates for adapters with router_input="given": [batch, N] for each sequence, or
                [batch, length, N] for each token. See `hydralora.expert_gates`.
        """
        with nullcontext() if expert_gates is None else given_gates(self.model, expert_gates):
            return self.model(*args, **kwargs)

    def _create_and_replace(
        self,
        peft_config: HydraLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        r = peft_config.rank_pattern.get(get_pattern_key(peft_config.rank_pattern, current_key), peft_config.r)
        alpha_key = get_pattern_key(peft_config.alpha_pattern, current_key)
        lora_alpha = peft_config.alpha_pattern.get(alpha_key, peft_config.lora_alpha)
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        reason = unfit_reason(parent, target_name, base)
        if reason is not None:
            self._left_alone[current_key] = reason
            return
        if isinstance(target, HydraLoraLayer):
            target.update_layer(adapter_name, r, lora_alpha, peft_config)
            return
        new_module = self._create_new_module(peft_config, adapter_name, target, r, lora_alpha)
        if adapter_name not in self.active_adapters:
            new_module.requires_grad_(False)  # an additional adapter is not trained until it is active
        self._replace_module(parent, target_name, new_module, target)
        switch_off_fast_path(parent, new_module)

    def _create_new_module(
        self, config: HydraLoraConfig, adapter_name: str, target: nn.Module, r: int, lora_alpha: float
    ) -> HydraLoraLinear:
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        if not is_linear(base):
            raise ValueError(
                f"Target module {target} is not supported: expected `torch.nn.Linear`, "
                f"`transformers.pytorch_utils.Conv1D` or a quantised linear layer. Check `target_modules`."
            )
        return HydraLoraLinear(target, adapter_name, r, lora_alpha, config, **get_quantization_kwargs(self.model))

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Inject the adapter as PEFT does, and warn about target modules that are not adapted.

        Raises:
            ValueError: If an adapter can act on none of the target modules.
        """
        self._left_alone: dict[str, str] = {}
        config = self.peft_config[adapter_name]
        targets = config.target_modules
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        if self._left_alone and not any(adapter_name in layer.hydralora_A for layer in self._layers()):
            raise ValueError(f"Expected target_modules that an adapter can act on, got {_reasons(self._left_alone)}")
        for sentence in [*_left_out(model, targets, self._left_alone), *_not_found(model, config)]:
            warnings.warn(sentence, stacklevel=2)
        if any("given" in layer.router_input.values() for layer in self._layers()):
            watch_for_good(model)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters into the base weights, as PEFT does.

        Raises:
            ValueError: If the gates of an adapter depend on the input, or a weight is tied to another module's.
        """
        self._check_mergeable(adapter_names)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: a weighted mean of adapters with different gates is not a HydraLoRA adapter.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "HydraLoRA adapters cannot be added: their experts have gates of their own. Export each as a plain LoRA "
            "(`hydralora.export_lora`), and combine these with PEFT's `add_weighted_adapter`."
        )

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if merge:
            self._check_mergeable(adapter_names)
        stop_watching(self.model)
        return super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)

    def _check_mergeable(self, adapter_names: list[str] | None) -> None:
        """Check all layers before the first one changes: a half-merged model would be silently wrong."""
        for layer in self._layers():
            for name in set(adapter_names or layer.active_adapters) & set(layer.hydralora_A):
                layer.check_values(name)
                if layer.fixed_gates(name) is None:
                    raise ValueError(merge_refusal(name, layer.num_experts[name]))
        refuse_unmergeable_weights(self.model, adapter_names)

    def _layers(self) -> list[HydraLoraLayer]:
        return [module for module in self.model.modules() if isinstance(module, HydraLoraLayer)]

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Pass `adapter_names` (the adapter of each row of the batch) to every layer; PEFT's own version drops them."""
        adapter_names = kwargs.get("adapter_names")
        if adapter_names is None:
            yield
            return
        self._check_adapter_names(adapter_names)
        num_beams = kwargs.get("num_beams") or 1
        repeated = [name for name in adapter_names for _ in range(num_beams)]
        encoder = self.model.get_encoder() if num_beams > 1 and hasattr(self.model, "get_encoder") else None
        # An encoder runs before the beams exist. `get_encoder` of a model without an encoder returns the model.
        before_beams = set(encoder.modules()) if encoder is not None and encoder is not self.model else set()
        with ExitStack() as hooks:
            for module in self.modules():
                if isinstance(module, HydraLoraLayer | AuxiliaryTrainingWrapper):
                    names = adapter_names if module in before_beams else repeated
                    handle = module.register_forward_pre_hook(_pass_adapter_names(names), with_kwargs=True)
                    hooks.callback(handle.remove)
            yield

    def _check_adapter_names(self, adapter_names: Sequence[str]) -> None:
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        known = {name for layer in self._layers() for name in layer.hydralora_A}
        unknown = set(adapter_names) - known - {"__base__"}
        if unknown:
            raise ValueError(f"Trying to infer with non-existing adapter(s): {', '.join(sorted(unknown))}")

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """The name of a weight in files. PEFT 0.21 and later call this to save and to load.

        Blocks that are compiled one by one have other names in the model; in files their names are plain.
        """
        return plain_name(super()._remove_adapter_name_from_key(key, adapter_name))

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: HydraLoraConfig, adapter_name: str, state_dict: dict[str, Any]
    ) -> Any:
        """PEFT 0.21 and later call this."""
        if not any(f".{cls.prefix}" in key for key in state_dict):
            raise ValueError(
                f"Expected weights named '*.{cls.prefix}*' for adapter {adapter_name!r}, got {_listed(set(state_dict))}"
            )
        plain = {plain_name(key): tensor for key, tensor in state_dict.items()}
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, plain)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Check adapter weights strictly. PEFT loads with strict=False, so an incomplete adapter would load silently.

        PyTorch reports shape mismatches in the same error.

        Raises:
            ValueError: If a merged adapter would get other weights. Nothing is loaded then.
        """
        self._refuse_other_weights_of_merged(state_dict, prefix)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        error_msgs.extend(self._differences(state_dict, prefix))

    def _refuse_other_weights_of_merged(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Raise ValueError if `unmerge` would later subtract another update than the one that was added."""
        merged = {name for layer in self._layers() for name in layer.merged_adapters}
        for key, own in self.state_dict().items() if merged else ():
            new = state_dict.get(prefix + key)
            is_merged = f".{self.prefix}" in key and key.split(".")[-2] in merged
            if is_merged and new is not None and not torch.equal(new.to(own), own):
                raise ValueError(
                    f"Cannot load other weights into {prefix + key}: the adapter is merged. Call `unmerge_adapter()` "
                    f"first."
                )

    def _differences(self, state_dict: dict[str, Any], prefix: str) -> list[str]:
        """Errors: keys that no layer has, and the missing keys of each adapter that `state_dict` holds only in part."""
        own = {prefix + key for key in self.state_dict() if f".{self.prefix}" in key}
        given = {key for key in state_dict if key.startswith(prefix) and f".{self.prefix}" in key}
        messages = [f"Unexpected adapter weights that no layer has: {_listed(given - own)}"] if given - own else []
        for name in self.peft_config:
            mine = {key for key in own if key.split(".")[-2] == name}
            if given & mine and mine - given:
                messages.append(f"Missing weights of adapter {name!r}: {_listed(mine - given)}")
        return messages


def _left_out(model: nn.Module, targets: Any, left_alone: dict[str, str]) -> list[str]:
    """Sentences about modules that users may expect to be adapted but that are not."""
    sentences = []
    if left_alone:
        sentences.append(f"Left alone, because an adapter cannot act on these target modules: {_reasons(left_alone)}")
    names = [plain for plain, _ in model.named_modules()]
    entries = [] if isinstance(targets, str) else sorted(targets or ())
    unmatched = [entry for entry in entries if not any(f".{name}".endswith(f".{entry}") for name in names)]
    if unmatched:
        sentences.append(f"No layer of the model has these names of target_modules: {', '.join(unmatched)}")
    with_other_names = names_outside_adapters(model)
    if with_other_names:
        sentences.append(
            f"Modules with several names are adapted under one of them; the base module stays as it is under "
            f"{', '.join(with_other_names)}"
        )
    experts = fused_experts(model)
    if experts and (unmatched or (isinstance(targets, str) and targets.lower() == "all-linear")):
        sentences.append(
            f"The experts of this mixture are not adapted: {len(experts)} parameters such as {experts[0]} hold their "
            f"weights, and HydraLoRA adapts linear layers only. (PEFT's LoRA with target_modules='all-linear' adapts "
            f"them.)"
        )
    return sentences


def _not_found(model: nn.Module, config: HydraLoraConfig) -> list[str]:
    """Sentences about trained modules and layers in the config that the model does not have; PEFT is silent there."""
    names = [plain_name(name) for name, _ in model.named_modules()]
    wanted = set(config.modules_to_save or ()) - _HEADS
    indices = config.layers_to_transform
    layers = {indices} if isinstance(indices, int) else set(indices or ())
    missing = {
        "modules_to_save": {module for module in wanted if not any(name.endswith(module) for name in names)},
        "layers_to_transform": {f"{i}" for i in layers if not any(f".{i}." in name for name in names)},
    }
    return [
        f"The model has none of these {field}, so they are neither trained nor saved: {_listed(given)}"
        for field, given in missing.items()
        if given
    ]


def _reasons(left_alone: dict[str, str]) -> str:
    return _listed({f"{name} ({reason})" for name, reason in left_alone.items()}, most=4)


def is_linear(base: nn.Module) -> bool:
    """Whether the method can adapt a layer: `nn.Linear`, `Conv1D` (GPT-2), or a quantised linear layer."""
    if isinstance(base, nn.Linear | Conv1D):
        return True
    backend = resolve_quantization_backend(base) if not hasattr(base, "weight") else None
    return backend is not None or hasattr(base, "qweight")


def _pass_adapter_names(adapter_names: Sequence[str]) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "adapter_names": adapter_names}

    return hook


def _listed(texts: set[str], most: int = 20) -> str:
    return ", ".join(sorted(texts)[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
