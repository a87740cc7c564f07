"""Registers the method with PEFT from outside PEFT's repository."""

from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType, register_peft_method

NAME = "HYDRALORA"


def add_peft_type() -> None:
    """Add a member to the enum `PeftType`. Python forbids that, but PEFT and transformers need a real member."""
    if NAME in PeftType.__members__:
        return
    member = str.__new__(PeftType, NAME)
    member._name_ = member._value_ = NAME
    member.__objclass__ = PeftType
    member._sort_order_ = len(PeftType.__members__)
    type.__setattr__(PeftType, NAME, member)
    PeftType._member_names_.append(NAME)
    PeftType._member_map_[NAME] = member
    PeftType._value2member_map_[NAME] = member


def register(config_cls: type, model_cls: type, earlier_peft_type: str) -> None:
    """Register the method with PEFT. After a re-import, a second call replaces the classes by the new ones.

    Args:
        earlier_peft_type: The `peft_type` that earlier versions wrote into adapter_config.json.

    Raises:
        RuntimeError: If another class has taken the name, for example in a later version of PEFT.
    """
    add_peft_type()
    peft_type = PeftType[NAME]
    known = (PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type), PEFT_TYPE_TO_TUNER_MAPPING.get(peft_type))
    if known == (None, None):
        register_peft_method(name=NAME.lower(), config_cls=config_cls, model_cls=model_cls)
    elif [_full_name(cls) for cls in known] == [_full_name(config_cls), _full_name(model_cls)]:
        # The package was imported again in this process: a notebook's autoreload, `importlib.reload`.
        PEFT_TYPE_TO_CONFIG_MAPPING[peft_type], PEFT_TYPE_TO_TUNER_MAPPING[peft_type] = config_cls, model_cls
    else:
        raise RuntimeError(
            f"PEFT already has a method {NAME} with {known}, expected none or {config_cls} and {model_cls}. Is there a "
            f"second package that registers it, or a PEFT version that brings its own? Use only one of them."
        )
    PEFT_TYPE_TO_CONFIG_MAPPING[earlier_peft_type] = config_cls


def _full_name(cls: Any) -> str:
    return f"{cls.__module__}.{cls.__qualname__}" if isinstance(cls, type) else repr(cls)
