"""Settings of a training: what is refused, and in which words."""

from typing import Any

import pytest

from hydralora.training import TrainingConfig


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ValueError, match="exactly one of max_steps, max_tokens, num_train_epochs"):
        TrainingConfig()
    with pytest.raises(ValueError, match="early_stopping_patience needs eval_steps"):
        TrainingConfig(max_steps=1, early_stopping_patience=2)
    with pytest.raises(ValueError, match="got 'cosin'"):
        TrainingConfig(max_steps=1, lr_scheduler_type="cosin")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_grad_norm", float("nan"), "a number of at least 0, got nan"),
        ("max_grad_norm", -1.0, "a number of at least 0"),
        ("warmup_ratio", 1.5, "a number of at least 0 and at most 1, got 1.5"),
        ("balance_weight", -0.1, "a number of at least 0"),
        ("weight_decay", float("inf"), "a number of at least 0"),
        ("eval_steps", 0, "a whole number of at least 1"),
        ("tokens_per_step", 200.5, "a whole number of at least 1"),
        ("gradient_accumulation_steps", True, "a whole number of at least 1"),
        ("learning_rate", "0.1", "a number of more than 0"),
        ("learning_rate_ratios", {"lora_B": 0.0}, "a number of more than 0"),
        ("seed", 2**32, "a whole number of at least 0 and at most 4294967295"),
    ],
)
def test_settings_that_mean_nothing_are_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=f"Expected {name}: {expected}"):
        TrainingConfig(**{"max_steps": 1, name: value})
