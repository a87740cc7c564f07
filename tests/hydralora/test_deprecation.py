"""Old public names work, and a warning names the new ones."""

import dataclasses
import importlib
from contextlib import suppress

import pytest
from torch import nn

import hydralora
from hydralora.deprecation import takes_options


@pytest.mark.parametrize(("old", "new"), [("set_static_gates", "set_fixed_gates"), ("static_gates", "fixed_gates")])
def test_an_old_name_is_the_new_thing_and_warns(old: str, new: str) -> None:
    assert getattr(hydralora, old).__wrapped__ is getattr(hydralora, new)
    with pytest.warns(DeprecationWarning, match=f"hydralora.{old} is now hydralora.{new}"), suppress(ValueError):
        getattr(hydralora, old)(nn.Linear(1, 1), None)


def test_an_old_module_is_the_new_one_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"hydralora\.routing_losses is now hydralora\.gates\.losses"):
        old = importlib.import_module("hydralora.routing_losses")
    assert old.balance_loss is importlib.import_module("hydralora.gates.losses").balance_loss


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = hydralora.nothing_of_the_kind


@dataclasses.dataclass(frozen=True)
class Options:
    loud: bool = False
    times: int = 1


@takes_options(Options)
def said(word: str, *, options: Options = Options()) -> tuple[str, Options]:
    return word, options


def test_fields_of_an_options_object_are_taken_as_keywords_with_a_warning() -> None:
    assert said("hello", options=Options(times=2)) == ("hello", Options(times=2))
    earlier: dict[str, object] = {"loud": True, "options": Options(times=2)}
    with pytest.warns(DeprecationWarning, match=r"loud is now options=Options\(\.\.\.\)"):
        assert said("hello", **earlier) == ("hello", Options(loud=True, times=2))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="softly"):
        said("hello", softly=True)  # type: ignore[call-arg]
