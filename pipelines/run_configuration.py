"""Reading a run configuration from its file, for the commands of this package."""

from pathlib import Path
from typing import Any

import yaml

MOST_VALUES = 100_000


class ConfigurationError(ValueError):
    """A file that is not a run configuration."""


class _Loader(yaml.SafeLoader):
    """Safe loading that refuses a key that comes twice: YAML would keep the last and drop the first."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, str) and key in seen:
            place = key_node.start_mark
            raise ConfigurationError(
                f"line {place.line + 1}: expected each key once, got {key!r} a second time. Remove one of them"
            )
        if isinstance(key, str):
            seen.add(key)
    loader.flatten_mapping(node)
    return yaml.constructor.SafeConstructor.construct_mapping(loader, node, deep=True)


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """A whole number as people read it: YAML takes 010 for eight and 1:30 for ninety."""
    value = loader.construct_yaml_int(node)
    digits = node.value.replace("_", "").lstrip("+-")
    if ":" in digits or (digits.startswith("0") and digits.isdecimal() and digits != "0"):
        raise ConfigurationError(
            f"line {node.start_mark.line + 1}: expected a plain number, got {node.value}, which YAML reads as {value}"
        )
    return int(value)


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_configuration(path: Path) -> dict[str, Any]:
    """The run configuration in a YAML file.

    Raises:
        ConfigurationError: no such file, no YAML, a key that comes twice, or something else than a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(
            f"{path}: expected a run configuration in YAML. {reason}. `hydralora init FILES` writes one."
        ) from None
    try:
        values = yaml.load(text, Loader=_Loader)  # a SafeLoader: it makes no objects of Python
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}, {error}.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigurationError(f"{path}: expected YAML. {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        kind = "nothing" if values is None else type(values).__name__
        raise ConfigurationError(f"{path}: expected a mapping with `resources` and `ops`, got {kind}.")
    if _is_larger_than(values, MOST_VALUES):
        raise ConfigurationError(
            f"{path}: expected at most {MOST_VALUES:,} values, got more: aliases (`*name`) multiply them. Write less."
        )
    return values


def _is_larger_than(value: Any, most: int) -> bool:
    """Whether a value holds more than `most` others. What an alias names counts wherever it stands."""
    waiting = [value]
    while waiting and most >= 0:
        most -= 1
        found = waiting.pop()
        waiting.extend(found.values() if isinstance(found, dict) else found if isinstance(found, list) else ())
    return most < 0
