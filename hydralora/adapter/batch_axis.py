"""Which axis of a layer's input is the batch.

A layer sees only a tensor: [batch, length, d] in most models, [length, batch, d] in some, [batch * length, d] in front
of a mixture of experts, and the patches of all images of a batch in a vision tower. Gates given for each sequence must
reach the right tokens. So this module reads the shape of the batch when the model is called, and each layer's input
must fit that shape exactly. An input that fits in two ways is refused.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Models of transformers in which some or all layers see [length, batch, d].
_LENGTH_FIRST = ("xlnet", "fsmt", "longformer", "led")
_TEXT = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds", "encoder_hidden_states")


class Images(NamedTuple):
    """How images are spread over the rows of a batch: placeholders in the text, and a grid of patches for each image.

    Attributes:
        input_ids: Tokens [batch, length], with one placeholder for each merged patch.
        grids: Pairs (token id of the placeholder, grid [images, 3]), one for images and one for videos. A grid row
            counts the patches in time, height and width.
        patches_per_token: Number of patches that are merged into one token.
    """

    input_ids: Tensor
    grids: tuple[tuple[int, Tensor], ...]
    patches_per_token: int


class Patches(NamedTuple):
    """The batch row of each patch, [patches], and the number of consecutive patches that are merged into one token."""

    rows: Tensor
    per_token: int


class Call(NamedTuple):
    """Facts about one call of a model, or of a transformers model inside it.

    Attributes:
        lengths: Tokens per row, for each text input; empty if they are not known.
        batch_first: Whether layers are known to see the batch as the first axis.
        main: Name of the input from which the batch was read.
        mixed: Whether the call has other inputs besides text; the layers for those may see other rows.
        unknown: Why layers inside cannot know which row a token belongs to; empty if they can.
        images: The images of the batch, if the model has a vision tower of a known kind.
        patches: The rows that the patches of a vision tower belong to, if they are known.
    """

    batch: int
    lengths: tuple[int, ...] = ()
    batch_first: bool = False
    main: str = ""
    mixed: bool = False
    unknown: str = ""
    images: Images | None = None
    patches: "Patches | None" = None


class Place(NamedTuple):
    """Where a layer stands in the model.

    Attributes:
        in_block: Whether it is inside a list of layers. If so, an input [batch, d] is not a pooled output.
        gathered: Whether it is in a list of experts. Experts see the tokens that were routed to them, in any order.
    """

    in_block: bool = False
    gathered: bool = False


class Layout(NamedTuple):
    """How tokens lie in a layer's input: `kind` is "batch first", "length first", "flat", "pooled" or "patches"."""

    kind: str
    length: int = 1  # for "flat": tokens per row; for "patches": patches per token


def place_of(model: nn.Module, name: str) -> Place:
    """Where a layer stands in its model, read from its dotted name."""
    parts = name.split(".")
    ancestors = [".".join(parts[:i]) for i in range(1, len(parts))]
    lists = [a for a in ancestors if isinstance(model.get_submodule(a), nn.ModuleList | nn.ModuleDict | nn.Sequential)]
    is_expert = any(a.split(".")[-1].endswith("experts") for a in lists)
    is_nested = len([a for a in lists if not isinstance(model.get_submodule(a), nn.Sequential)]) > 1
    return Place(in_block=bool(lists), gathered=is_expert or is_nested)


def read_call(module: nn.Module, given: dict[str, Any], outer: Call | None) -> Call:
    """Read the batch from a call of `module`.

    Args:
        given: The call's inputs by name.
        outer: The enclosing call, or None for the call of the whole model.
    """
    config = getattr(module, "config", None)
    kind = getattr(config, "model_type", None)
    batch_first = kind is not None and kind not in _LENGTH_FIRST
    text = [name for name in _TEXT if isinstance(given.get(name), Tensor) and given[name].dim() > 1]
    if text and text != ["encoder_hidden_states"]:
        rows = {given[name].shape[0] for name in text}
        lengths = tuple(given[name].shape[-1 if name.endswith("ids") else -2] for name in text)
        unknown = "" if len(rows) == 1 else f"its inputs {', '.join(text)} have different numbers of rows"
        images = _images(config, given) or (outer.images if outer is not None else None)
        return Call(given[text[0]].shape[0], lengths, batch_first, text[0], _has_more(given), unknown, images)
    main = _main_input(module, given)
    rows_of_main = 0 if main is None else given[main].shape[0]
    if outer is None or (main == outer.main and rows_of_main == outer.batch):
        return Call(rows_of_main, () if main is None else _lengths(given[main]), batch_first, main or "")
    patches = _rows_of_patches(outer.images, given.get("grid_thw"))
    unknown = f"{type(module).__name__} works on {main or 'no tensor'}, whose rows are not those of the batch"
    return Call(outer.batch, (), batch_first, main or "", True, unknown, None, patches)


def _main_input(module: nn.Module, given: dict[str, Any]) -> str | None:
    main = getattr(module, "main_input_name", None)
    tensors = [name for name, value in given.items() if isinstance(value, Tensor) and value.dim() > 0]
    return main if main in tensors else next(iter(tensors), None)


def _lengths(main: Tensor) -> tuple[int, ...]:
    """Tokens per row of a non-text input: [batch, length, d], or integers [batch, length]."""
    has_length = main.dim() == 3 or (main.dim() == 2 and not main.is_floating_point())
    return (main.shape[1],) if has_length else ()


def _has_more(given: dict[str, Any]) -> bool:
    """Whether the call has inputs such as images or sound besides the text."""
    return any(
        isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1
        for name, value in given.items()
        if name not in _TEXT and "mask" not in name and "label" not in name and "position" not in name
    )


def _images(config: Any, given: dict[str, Any]) -> Images | None:
    """Images of models like Qwen2-VL, whose inputs state the number of patches of each image."""
    merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", None)
    ids = given.get("input_ids")
    if merge is None or not isinstance(ids, Tensor):
        return None
    pairs = ((getattr(config, f"{kind}_token_id", None), given.get(f"{kind}_grid_thw")) for kind in ("image", "video"))
    grids = tuple((token, grid) for token, grid in pairs if token is not None and isinstance(grid, Tensor))
    return Images(ids, grids, merge**2) if grids else None


def _rows_of_patches(images: Images | None, grid: Any) -> Patches | None:
    """The batch row of each patch; None if an image spans several rows, or if the counts disagree."""
    if images is None or not isinstance(grid, Tensor):
        return None
    token = next((token for token, known in images.grids if known is grid), None)
    if token is None:
        return None
    in_rows = (images.input_ids == token).sum(1)  # [batch]
    in_images = grid.to(in_rows.device).prod(1) // images.patches_per_token  # [images]
    ends = torch.cat((in_images.new_zeros(1), in_images.cumsum(0)))
    if in_rows.sum() != in_images.sum() or not torch.isin(in_rows.cumsum(0), ends).all():
        return None
    rows = torch.arange(len(in_rows), device=in_rows.device)
    return Patches(rows.repeat_interleave(in_rows * images.patches_per_token), images.patches_per_token)


def locate(shape: tuple[int, ...], call: Call, place: Place) -> Layout:
    """Find how the tokens lie in a layer's input.

    Args:
        shape: Shape of the input without its last axis.

    Raises:
        ValueError: If the shape does not fit the call, or fits it in two ways.
    """
    if call.patches is not None:
        return _locate_patches(shape, call.patches)
    if call.unknown:
        raise ValueError(_refusal(shape, call, call.unknown))
    if len(shape) == 1:
        return _locate_rows(shape, call, place)
    first = shape[0] == call.batch
    second = not call.batch_first and shape[1] == call.batch and shape[0] in call.lengths
    if first and not call.batch_first and shape[1] == call.batch:
        raise ValueError(_refusal(shape, call, "both axes are as long as the batch, so either may be the batch axis"))
    if first and (shape[1] in call.lengths or not call.mixed):
        return Layout("batch first")
    if second:
        return Layout("length first")
    raise ValueError(_refusal(shape, call, "no axis is certain to be the batch"))


def _locate_rows(shape: tuple[int, ...], call: Call, place: Place) -> Layout:
    """Layout of an input with one axis of tokens."""
    (tokens,) = shape
    if place.gathered:
        raise ValueError(_refusal(shape, call, "experts of a mixture see the tokens that were routed to them"))
    for length in call.lengths:
        if tokens == call.batch * length and call.batch_first:
            return Layout("flat", length)
    if tokens == call.batch and not place.in_block and not call.mixed:
        return Layout("pooled")
    raise ValueError(_refusal(shape, call, "all tokens lie on one axis, and the lengths of the rows are not known"))


def _locate_patches(shape: tuple[int, ...], patches: Patches) -> Layout:
    for merged in (1, patches.per_token):
        if math.prod(shape) == max(shape) == len(patches.rows) // merged:
            return Layout("patches", merged)
    raise ValueError(f"Expected {len(patches.rows)} patches of images or their merged tokens, got an input {shape}")


def _refusal(shape: tuple[int, ...], call: Call, reason: str) -> str:
    lengths = f" of length {' or '.join(str(n) for n in sorted(set(call.lengths)))}" if call.lengths else ""
    return (
        f"Cannot tell which row of the batch the gates belong to for an input of shape {tuple(shape)}, in a call with "
        f"{call.batch} rows{lengths}: {reason}. Exclude such layers (`exclude_modules`), or call the model with one "
        f"row at a time."
    )
