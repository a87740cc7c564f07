"""Run configuration derived from a library's dataclass, so that fields and defaults are defined only once."""

import dataclasses
import typing
from typing import Any

import dagster as dg
from pydantic import create_model


def fields_from(dataclass: type, base: type = dg.Config, *, without: tuple[str, ...] = ()) -> Any:
    """Make a run configuration class with the fields and defaults of a dataclass.

    Args:
        dataclass: dataclass whose field types Dagster supports in run configuration.
        base: `dagster.Config` or `dagster.ConfigurableResource`.
        without: names of fields to leave out.
    """
    types = typing.get_type_hints(dataclass)
    fields: dict[str, Any] = {
        field.name: (_plain(types[field.name]), _default(field))
        for field in dataclasses.fields(dataclass)
        if field.name not in without
    }
    return create_model(f"{dataclass.__name__}Fields", __base__=base, __module__=__name__, **fields)


def values_for(dataclass: type, config: Any) -> dict[str, Any]:
    """The values of a configuration for the fields of a dataclass."""
    values = config.model_dump() if hasattr(config, "model_dump") else dict(config)
    return {field.name: values[field.name] for field in dataclasses.fields(dataclass) if field.name in values}


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return list(field.default) if isinstance(field.default, tuple) else field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return ...


def _plain(kind: Any) -> Any:
    """The type for run configuration: lists replace tuples and sequences, dictionaries replace mappings."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is None or origin is typing.Literal:
        return kind
    import collections.abc
    import types

    if origin in (types.UnionType, typing.Union):
        kinds = [_plain(argument) for argument in arguments]
        union = kinds[0]
        for other in kinds[1:]:
            union = union | other
        return union
    if origin in (tuple, list, collections.abc.Sequence):
        return list[_plain(arguments[0])]  # type: ignore[misc]
    if origin in (dict, collections.abc.Mapping):
        return dict[_plain(arguments[0]), _plain(arguments[1])]  # type: ignore[misc]
    return kind
