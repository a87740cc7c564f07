"""Loads the frozen model under an adapter: the embedded default, a local folder, or a hub id.

The embedded default is SmolLM2-135M-Instruct, see `hydralora.base_model.embedded`.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from hydralora.base_model.embedded import EMBEDDED, BaseModelError, provision_embedded_base_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_base_model(
    name_or_path: str = EMBEDDED,
    *,
    revision: str | None = None,
    dtype: torch.dtype | Literal["auto"] = "auto",
    quantization: Literal["4bit"] | None = None,
    device: str | torch.device | None = None,
    on_cpu: bool = False,
    trust_remote_code: bool = False,
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Load the model, in evaluation mode with frozen parameters, and its tokenizer.

    Args:
        name_or_path: `"embedded"`, a folder, or a hub id.
        revision: Commit, branch or tag on the hub.
        dtype: Dtype of the weights; `"auto"` is `fast_dtype(device)`.
        quantization: `"4bit"` loads NF4 blocks with bitsandbytes, for base models that do not fit otherwise.
        device: Device of the model; default this process's GPU (torchrun's `LOCAL_RANK`), or the CPU without a GPU.
        on_cpu: Whether to keep the model in CPU memory but choose dtype and attention for `device`. FSDP needs this: it
            splits the model between the GPUs.
        trust_remote_code: Whether to run Python code from the model's repository. Leave it off unless you have read
            that code.

    Raises:
        BaseModelError: If the model cannot be found, reached, or loaded.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    path = _path_of(name_or_path)
    target = default_device() if device is None else torch.device(device)
    dtype = fast_dtype(target) if dtype == "auto" else dtype
    blocks = None
    if quantization == "4bit":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise BaseModelError("A 4-bit base model needs bitsandbytes. Install it: pip install bitsandbytes")
        blocks = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    tokenizer = load_tokenizer(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    with _advised(name_or_path, revision):
        model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=dtype,
            # On CPUs torch's fused attention has a slow backward pass: a training step of 256 tokens takes 10% longer.
            attn_implementation="eager" if target.type == "cpu" else None,
            device_map=None if blocks is None else {"": target},
            quantization_config=blocks,
            trust_remote_code=trust_remote_code,
        )
    if blocks is None and not on_cpu:
        _move(model, name_or_path, target)
    for module in model.modules():
        # Otherwise bitsandbytes rewrites the weights at the first evaluation on some CPUs and rounds their scales.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    # PEFT writes this name into adapter_config.json: `load_base_model` understands it on any machine.
    model.name_or_path = name_or_path
    model.requires_grad_(False)
    model.eval()
    return model, tokenizer


def load_tokenizer(
    name_or_path: str = EMBEDDED, *, revision: str | None = None, trust_remote_code: bool = False, **_model: Any
) -> "PreTrainedTokenizerBase":
    """Load the tokenizer that `load_base_model` returns, without the model. It accepts the same arguments.

    Raises:
        BaseModelError: If it cannot be found, reached, or loaded.
    """
    from transformers import AutoTokenizer

    path = _path_of(name_or_path)
    with _advised(name_or_path, revision):
        tokenizer: Any = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_skeleton(
    name_or_path: str = EMBEDDED, *, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedModel":
    """The model on the meta device: shapes without weights, which takes a second for a 7B model.

    Args:
        name_or_path: `"embedded"`, a folder that needs only `config.json`, or a hub id. Others: `load_base_model`.

    Raises:
        BaseModelError: If the config cannot be found, reached, or loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    path = _path_of(name_or_path)
    with _advised(name_or_path, revision):
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    model.name_or_path = name_or_path
    model.requires_grad_(False)
    model.eval()
    return model


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the hardware supports it natively, else float32 (emulated bfloat16 is slower than float32)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def default_device() -> torch.device:
    """This process's GPU (torchrun's `LOCAL_RANK`), or the CPU without a GPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _move(model: Any, name_or_path: str, device: torch.device) -> None:
    try:
        model.to(device)
    except torch.OutOfMemoryError as error:
        gib = sum(parameter.nbytes for parameter in model.parameters()) / 2**30
        raise BaseModelError(
            f"{name_or_path}: expected {gib:.1f} GiB free on {device} for its weights, got less. Stop what else runs "
            f"there, or load the model in 4 bits. To train it on several GPUs, split it between them (fsdp) with "
            f"gradient_checkpointing."
        ) from error


def _path_of(name_or_path: str) -> str:
    return str(provision_embedded_base_model()) if name_or_path == EMBEDDED else name_or_path


@contextmanager
def _advised(name_or_path: str, revision: str | None) -> Iterator[None]:
    """Turn what transformers raises into a `BaseModelError` that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise BaseModelError(_advice(name_or_path, revision, error)) from error


def _advice(name_or_path: str, revision: str | None, error: Exception) -> str:
    if Path(name_or_path).is_file():
        return f"{name_or_path} is a file: name the folder that has the model's config.json and weights."
    if Path(name_or_path).exists():
        return f"{name_or_path} is a folder, but not one with a model that transformers can load: {error}"
    at = f" at revision {revision}" if revision else ""
    return (
        f"Cannot load the base model {name_or_path!r}{at}: there is no such folder, and the hub gave: {error} "
        f"Check the spelling and your connection (a gated model needs `hf auth login`), name a local folder, or use "
        f"{EMBEDDED!r}, which needs no network."
    )
