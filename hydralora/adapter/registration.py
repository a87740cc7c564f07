"""Makes PEFT know the method from outside its repository, as if it were one of its own."""

from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import PeftType, register_peft_method

NAME = "HYDRALORA"


def add_peft_type() -> None:
    """Add the member to PEFT's enumeration of methods, which is closed: PEFT and transformers need a real member."""
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


def register(config_cls: type, model_cls: type, saved_peft_type: str) -> None:
    """Register the method with PEFT; a second call with the same classes does nothing.

    Args:
        saved_peft_type: what adapter_config.json holds as `peft_type`; PEFT finds the config by this text.

    Raises:
        RuntimeError: another class has taken the name, for instance PEFT itself in a later version.
    """
    add_peft_type()
    peft_type = PeftType[NAME]
    known: dict[str, Any] = {
        "config": PEFT_TYPE_TO_CONFIG_MAPPING.get(peft_type),
        "model": PEFT_TYPE_TO_TUNER_MAPPING.get(peft_type),
    }
    if known == {"config": config_cls, "model": model_cls}:
        return
    if any(known.values()):
        raise RuntimeError(
            f"PEFT already has a method {NAME} with {known}, expected none or {config_cls} and {model_cls}. Is there a "
            f"second package that registers it, or a PEFT version that brings its own? Use only one of them."
        )
    register_peft_method(name=NAME.lower(), config_cls=config_cls, model_cls=model_cls)
    PEFT_TYPE_TO_CONFIG_MAPPING[saved_peft_type] = config_cls
