"""The table of the compared methods, and their numbers of parameters. Imports `adapter`."""

from hydralora.methods.config import MethodConfig, MethodError
from hydralora.methods.factories import matched_rank
from hydralora.methods.parameters import (
    ParameterCounts,
    count_parameters,
    expected_parameters,
    print_parameters,
    target_shapes,
)
from hydralora.methods.table import (
    METHODS,
    Method,
    adapt,
    check_targets,
    get_method,
)

__all__ = [
    "METHODS",
    "Method",
    "MethodConfig",
    "MethodError",
    "ParameterCounts",
    "Settings",
    "adapt",
    "check_targets",
    "count_parameters",
    "expected_parameters",
    "get_method",
    "matched_rank",
    "print_parameters",
    "target_shapes",
]

Settings = MethodConfig  # its earlier name
