"""Linear layers that an adapter cannot act on, with the reason.

Some modules read a linear layer's weight instead of calling the layer (Mamba's `dt_proj`, the output projection of
PyTorch's `MultiheadAttention`). An adapter there would silently get no gradient and change nothing. This module finds
such layers in the source code of the module that holds them. Other layers are linear only by class: Llama 4's router
returns a tuple. Those are found by a trial on one token.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

# Reading these attributes of a weight does not use its values.
_FACTS = ("dtype", "device", "shape", "requires_grad", "ndim", "is_meta", "size", "dim", "numel", "element_size")
_QUESTIONS = ("isinstance", "hasattr")
_NOT_A_FORWARD_PASS = ("__init__", "_init_weights", "reset_parameters", "_reset_parameters", "init_weights")
# It reads weights only in its fast path, and `switch_off_fast_path` switches that off.
_HAS_A_SWITCH = (nn.TransformerEncoderLayer,)


def unfit_reason(parent: nn.Module, name: str, layer: nn.Module) -> str | None:
    """Why an adapter on `parent.name` would not work; None if it would."""
    cls: Any = type(parent)  # mypy does not know that the class is hashable
    reads = name in weights_read_by(cls) and not isinstance(parent, _HAS_A_SWITCH)
    if reads and getattr(parent, "slow_but_exact", True):  # Bloom reads weights only in a debugging mode
        return f"{type(parent).__name__} reads its weight instead of calling it"
    return _other_output(layer)


@cache
def weights_read_by(cls: type) -> frozenset[str]:
    """Names of submodules whose weight a class of modules reads in its own code."""
    names: set[str] = set()
    for each in cls.__mro__:
        if each is nn.Module:
            break
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        except (OSError, TypeError, SyntaxError):
            continue  # without source code, nothing is known
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and function.name not in _NOT_A_FORWARD_PASS:
                names |= _weights_read_in(function)
    return frozenset(names)


def _weights_read_in(function: ast.FunctionDef) -> set[str]:
    harmless: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and node.attr in _FACTS:
            harmless.add(id(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _QUESTIONS:
            harmless.update(id(argument) for argument in node.args)
    return {
        node.value.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute)
        and node.attr == "weight"
        and isinstance(node.ctx, ast.Load)
        and isinstance(node.value, ast.Attribute)
        and isinstance(node.value.value, ast.Name)
        and node.value.value.id == "self"
        and id(node) not in harmless
    }


@torch.no_grad()
def _other_output(layer: nn.Module) -> str | None:
    """Why a subclass of `nn.Linear` does not return a linear layer's output for one token; None if it does."""
    if not isinstance(layer, nn.Linear) or type(layer).forward is nn.Linear.forward:
        return None
    if type(layer).__module__.split(".")[0] != "transformers" or layer.weight.dim() != 2:
        return None  # quantised layers are checked by their libraries
    output = layer(layer.weight.new_zeros(1, layer.in_features))
    if isinstance(output, torch.Tensor) and output.shape == (1, layer.out_features):
        return None
    return f"the forward pass of {type(layer).__name__} returns no output of a linear layer"


def unfit_layers(model: nn.Module) -> dict[str, str]:
    """Linear layers of a base model that an adapter cannot act on: name -> reason."""
    found = {}
    for parent_name, parent in model.named_modules():
        for name, layer in parent.named_children():
            reason = unfit_reason(parent, name, layer) if isinstance(layer, nn.Linear | Conv1D) else None
            if reason is not None:
                found[f"{parent_name}.{name}" if parent_name else name] = reason
    return found


def fused_experts(model: nn.Module) -> list[str]:
    """Names of parameters [experts, out, in] that hold all experts of a mixture; these are not linear layers."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.dim() == 3 and "expert" in name.rpartition(".")[0].lower() and "hydralora_" not in name
    ]


def read_as_experts(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Names of layers that PEFT's LoRA would not adapt although they are its targets.

    Transformers 5 fuses the experts of a mixture. PEFT then reads a target such as `gate_proj` as the fused parameter.
    In some models (DeepSeek-V3, Qwen3-Next) it does so even for a dense layer or a shared expert beside the mixture.
    """
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    asked = LoraConfig(target_modules=[*names, "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"])
    convert_peft_config_for_transformers(asked, model, None)
    return sorted(set(names) - set(asked.target_modules or ()))


def switch_off_fast_path(parent: nn.Module, layer: nn.Module) -> None:
    """Register a hook: with one, PyTorch's `TransformerEncoderLayer` calls its layers instead of reading weights."""
    if isinstance(parent, _HAS_A_SWITCH):
        layer.register_forward_pre_hook(_do_nothing)


def _do_nothing(module: nn.Module, args: object) -> None:
    """Hook without effect; only its presence matters."""
