"""Run configuration derived from a library's dataclass, so that fields and defaults are defined only once."""

import dataclasses
import importlib.util
import sys
import typing
from collections.abc import Mapping
from typing import Any, cast

import dagster as dg
from pydantic import BaseModel, Field, create_model
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from pipelines.store.code.source_files import check_unchanged, module_files

LARGEST_SEED = 2**32 - 1
"""The largest seed that NumPy and scikit-learn accept."""


def declaration(module: str, name: str) -> Any:
    """Load a class from the file of a module that imports only the standard library.

    `import hydralora` registers a PEFT method, so it imports torch, which takes seconds. A configuration class needs
    only the declared fields. Use the class only for that: an import gives a different object.
    """
    path = next(path for path in module_files(module) if path.is_file())
    check_unchanged(path)
    alias = f"{__name__}:{module}"  # an entry under the real name would hide the module from its package
    if alias not in sys.modules:
        spec = importlib.util.spec_from_file_location(alias, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[alias] = loaded  # dataclasses look up annotations there
        spec.loader.exec_module(loaded)
    return getattr(sys.modules[alias], name)


def fields_from(
    dataclass: type, base: type = dg.Config, *, without: tuple[str, ...] = (), only: tuple[str, ...] | None = None
) -> Any:
    """Make a run configuration class with the fields and defaults of a dataclass.

    Args:
        dataclass: its fields have types that run configuration knows; their metadata are limits (`ge`, `gt`, `le`).
        base: `dagster.Config` or `dagster.ConfigurableResource`. A resource only states its limits, see `limited`.
        without: names of fields to leave out.
        only: names of fields to take; None for all.
    """
    make = limited if issubclass(base, dg.ConfigurableResource) else Field
    types = typing.get_type_hints(dataclass)
    fields: dict[str, Any] = {
        field.name: (_plain(types[field.name]), make(_default(field), **field.metadata))
        for field in dataclasses.fields(dataclass)
        if field.name not in without and (only is None or field.name in only)
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
    """The type for run configuration: lists replace tuples and sequences, dictionaries replace mappings.

    Run configuration does not support a union of a list and one value, so the list remains.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is None or origin is typing.Literal:
        return kind
    import collections.abc
    import types

    if origin in (types.UnionType, typing.Union):
        kinds = [
            _plain(argument) for argument in arguments if types.GenericAlias(tuple, (argument, ...)) not in arguments
        ]
        union = kinds[0]
        for other in kinds[1:]:
            union = union | other
        return union
    if origin in (tuple, list, collections.abc.Sequence):
        return list[_plain(arguments[0])]  # type: ignore[misc]
    if origin in (dict, collections.abc.Mapping):
        return dict[_plain(arguments[0]), _plain(arguments[1])]  # type: ignore[misc]
    return kind


def limited(
    default: Any, *, ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None
) -> Any:
    """A field of a resource with limits.

    `pipelines.run_checks` checks them with everything else. pydantic would raise at the first resource that Dagster
    creates, with a stack trace.
    """
    limits = {name: limit for name, limit in (("ge", ge), ("gt", gt), ("le", le), ("lt", lt)) if limit is not None}
    return Field(
        default, description=limits_text(limits) or None, json_schema_extra={"limits": cast("JsonDict", limits)}
    )


def limits_of(info: FieldInfo) -> dict[str, float]:
    """The limits of a field, whether `limited` or pydantic states them: some of ge, gt, le, lt."""
    extra = info.json_schema_extra
    stated = extra.get("limits") if isinstance(extra, dict) else None
    if isinstance(stated, dict):
        return {name: cast(float, limit) for name, limit in stated.items()}
    return {
        name: getattr(item, name) for item in info.metadata for name in ("ge", "gt", "le", "lt") if hasattr(item, name)
    }


def limits_text(limits: Mapping[str, float]) -> str:
    """Limits in words: "at least 1"."""
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    return " and ".join(
        f"{words[name]} {int(limit) if limit == int(limit) else limit:,}" for name, limit in limits.items()
    )


def describe_limits(config: type[BaseModel]) -> None:
    """Say the limits of each field in its description, which Dagster's UI shows."""
    for info in config.model_fields.values():
        text = limits_text(limits_of(info))
        if text and not info.description:
            info.description = text[0].upper() + text[1:]
