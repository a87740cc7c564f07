"""Run configuration made from a dataclass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg
import pytest
from pydantic import ValidationError

from pipelines.store.configuration import fields_from, limits_of


@dataclass(frozen=True)
class Cake:
    eggs: int = field(default=3, metadata={"ge": 1, "le": 12})
    toppings: tuple[str, ...] | str = ("cream", "nuts")
    grams: Mapping[str, float] = field(default_factory=dict)
    guests: Sequence[str] = ()
    oven: str = "gas"


def test_fields_and_defaults_are_the_dataclass_s() -> None:
    config = fields_from(Cake, without=("oven",))()
    assert config.model_dump() == {"eggs": 3, "toppings": ["cream", "nuts"], "grams": {}, "guests": []}


def test_of_several_or_one_the_list_stays() -> None:
    assert fields_from(Cake).model_fields["toppings"].annotation == list[str]


def test_a_config_refuses_and_a_resource_states_its_limits() -> None:
    with pytest.raises(ValidationError):
        fields_from(Cake)(eggs=0)
    resource = fields_from(Cake, dg.ConfigurableResource, only=("eggs",))
    assert resource(eggs=0).eggs == 0
    assert limits_of(resource.model_fields["eggs"]) == {"ge": 1, "le": 12}
    assert list(resource.model_fields) == ["eggs"]
