"""What jaxtyping's import hook calls: beartype, for functions whose signatures name shapes and for no others."""

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, checked at each call if a shape stands in its signature."""
    has_shapes = any(names_a_shape(hint) for hint in getattr(function, "__annotations__", {}).values())
    return beartype(function) if has_shapes else function


def names_a_shape(hint: Any) -> bool:
    """Whether a type hint is one of jaxtyping's, or made of them."""
    return type(hint).__module__.startswith("jaxtyping.") or any(names_a_shape(part) for part in get_args(hint))
