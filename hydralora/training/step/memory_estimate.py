"""Estimates the GPU memory of a step from shapes, before the step is computed."""

import dataclasses
from typing import Any

from hydralora.evaluation.chunked_loss import CHUNK

_BYTES_OF_ACTIVATION = 2
_BYTES_OF_STATE = 12  # per trained parameter: its gradient and AdamW's two moments, in float32
_BYTES_OF_LOGIT = 8  # once in float32 and twice in half precision
_AT_WORK = 1.2  # times what backward keeps of a layer: a checkpointed layer that runs again, measured at 7B


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Memory for the longest row of a run.

    Attributes:
        needed: Peak bytes of the GPU, including those in use before the step.
        usable: Bytes of the GPU that a run can use.
        row: Tokens of the row, with padding.
        longest_row: Tokens of the longest row that fits.
        offloaded: Bytes of the machine's memory; 0 without offloading.
    """

    needed: int
    usable: int
    row: int
    longest_row: int
    offloaded: int

    @property
    def fits(self) -> bool:
        """Whether the longest row fits."""
        return self.needed <= self.usable

    def __str__(self) -> str:
        """A sentence for the log, and what to do if the row does not fit."""
        away = f", and {self.offloaded / 2**30:.1f} GiB of the machine's memory" if self.offloaded else ""
        text = (
            f"The longest row of this run has {self.row} tokens and takes about {self.needed / 2**30:.1f} GiB of this "
            f"GPU's {self.usable / 2**30:.1f} GiB{away}; rows of up to about {self.longest_row} tokens fit."
        )
        if self.fits:
            return text
        return f"{text} Raise gradient_accumulation_steps, or set gradient_checkpointing: true."


def estimate(
    config: Any,
    row: int,
    trainable: int,
    before: int,
    usable: int,
    *,
    fused: bool,
    checkpointing: bool,
    offloading: bool = False,
) -> Estimate | None:
    """Memory for the longest row of a run; None if the base model is not built like Llama.

    Args:
        config: Configuration of the base model's text part (transformers).
        row: Tokens of the longest micro-batch, with padding.
        trainable: Number of trained parameters.
        before: Bytes in use before the first step: base weights and trained parameters.
        usable: Bytes of the GPU that a run can use.
        fused: Whether norms and gated activations run as one kernel each.
        checkpointing: Whether activations are computed again in the backward pass.
        offloading: Whether activations wait for the backward pass in the machine's memory.
    """
    sizes = _kept_per_token(config, fused=fused)
    if sizes is None:
        return None
    layer, layers_input = sizes
    waiting = layers_input if checkpointing else layer * config.num_hidden_layers
    on_gpu = (0 if offloading else waiting) + (_AT_WORK * layer if checkpointing or offloading else 0)
    logits = min(row, CHUNK) * config.vocab_size * _BYTES_OF_LOGIT
    fixed = before + trainable * _BYTES_OF_STATE + logits
    per_token = int(on_gpu * _BYTES_OF_ACTIVATION)
    offloaded = row * waiting * _BYTES_OF_ACTIVATION if offloading else 0
    return Estimate(fixed + row * per_token, usable, row, max(0, usable - fixed) // per_token, offloaded)


def _kept_per_token(config: Any, *, fused: bool) -> tuple[int, int] | None:
    """How many values per token backward keeps of one layer, and of the inputs of all layers.

    For a layer these are inputs and outputs of both norms, queries, keys, values, the attention's output, and gate, up
    and their product. PEFT's own LoRA layers keep more.
    """
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    sizes: list[Any] = [getattr(config, name, None) for name in names]
    is_mixture = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if is_mixture or not all(isinstance(size, int) for size in sizes):
        return None
    width, inner, layers, heads, _ = sizes
    head = getattr(config, "head_dim", None) or width // heads
    keys = 2 * head * (getattr(config, "num_key_value_heads", None) or heads)
    layer = 4 * width + 2 * head * heads + keys + 3 * inner
    if not fused:
        layer += 2 * width + inner  # norms in float32, and the activation of the gate
    return layer, layers * width
