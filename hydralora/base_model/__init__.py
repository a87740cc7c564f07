"""The frozen model under an adapter: loading, the embedded default, its fingerprint. Imports no project module."""

from hydralora.base_model.embedded import (
    EMBEDDED,
    EMBEDDED_ON_HUB,
    BaseModelError,
    default_cache_dir,
    embedded_gguf,
    provision_embedded_base_model,
)
from hydralora.base_model.fingerprint import weights_fingerprint
from hydralora.base_model.loading import default_device, fast_dtype, load_base_model, load_skeleton, load_tokenizer
from hydralora.base_model.lower_layers import remembered_lower_layers
from hydralora.base_model.sharing import borrowed_base_model, taken_base_model

__all__ = [
    "EMBEDDED",
    "EMBEDDED_ON_HUB",
    "BaseModelError",
    "borrowed_base_model",
    "default_cache_dir",
    "default_device",
    "embedded_gguf",
    "fast_dtype",
    "load_base_model",
    "load_skeleton",
    "load_tokenizer",
    "provision_embedded_base_model",
    "remembered_lower_layers",
    "taken_base_model",
    "weights_fingerprint",
]
