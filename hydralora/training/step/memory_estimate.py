"""Estimates the GPU memory of a step from shapes, before the step is computed."""

from typing import Any

from hydralora.evaluation.chunked_loss import CHUNK

_BYTES_OF_ACTIVATION = 2
_BYTES_OF_STATE = 12  # of a trained parameter: its gradient and AdamW's two moments, in float32
_BYTES_OF_LOGIT = 8  # in float32, and twice in half precision


def estimate(
    config: Any, row: int, trainable: int, before: int, usable: int, *, fused: bool, checkpointing: bool
) -> tuple[bool, str] | None:
    """Whether the longest row of a run fits, and a sentence that says so; None if `step_bytes` is.

    Args:
        before: Bytes in use before the first step: base weights and trained parameters.
        usable: Bytes of the GPU that a run can use.
    """
    bytes_of = (
        step_bytes(config, tokens, trainable, fused=fused, checkpointing=checkpointing) for tokens in (row, 2 * row)
    )
    added, doubled = bytes_of
    if added is None or doubled is None:
        return None
    longest = row + int((usable - before - added) / max(1, (doubled - added) / row))
    text = (
        f"The longest row of this run has {row} tokens and takes about {(before + added) / 2**30:.1f} GiB of this "
        f"GPU's {usable / 2**30:.1f} GiB; rows of up to about {longest} tokens fit."
    )
    if before + added <= usable:
        return True, text
    return False, f"{text} Raise gradient_accumulation_steps, or set gradient_checkpointing: true."


def step_bytes(config: Any, row: int, trainable: int, *, fused: bool, checkpointing: bool) -> int | None:
    """Bytes that a step adds to base weights and trained parameters; None if the base model is not built like Llama.

    It counts what backward keeps of each layer: inputs and outputs of both norms, queries, keys, values, the
    attention's output, and gate, up and their product. PEFT's own LoRA layers keep more.

    Args:
        config: Configuration of the base model's text part (transformers).
        row: Tokens of the longest micro-batch, with padding.
        trainable: Number of trained parameters.
        fused: Whether norms and gated activations run as one kernel each.
        checkpointing: Whether activations are computed again in the backward pass.
    """
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    sizes: list[Any] = [getattr(config, name, None) for name in names]
    is_mixture = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if is_mixture or not all(isinstance(size, int) for size in sizes):
        return None
    width, inner, layers, heads, vocabulary = sizes
    head = getattr(config, "head_dim", None) or width // heads
    keys = 2 * head * (getattr(config, "num_key_value_heads", None) or heads)
    layer = 4 * width + 2 * head * heads + keys + 3 * inner
    if not fused:
        layer += 2 * width + inner  # norms in float32, and the activation of the gate
    kept = layer + layers * width if checkpointing else layers * layer
    logits = min(row, CHUNK) * vocabulary * _BYTES_OF_LOGIT
    return int(row * kept * _BYTES_OF_ACTIVATION + trainable * _BYTES_OF_STATE + logits)
