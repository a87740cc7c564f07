"""When the stages before the first step of a training end, and the first step itself."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from transformers import TrainerCallback

from hydralora.training import loop, trainer


class FirstStep(TrainerCallback):
    """Notes when the GPU has ended the first step; transformers' Trainer makes one of this class for each training."""

    stamps: ClassVar[dict[str, float]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if "first step" not in self.stamps:
            synchronize()
            self.stamps["first step"] = time.monotonic()


@contextmanager
def stages() -> Iterator[dict[str, float]]:
    """Times at which the stages before the first step of a training end, and the first step itself."""
    stamps = FirstStep.stamps
    stamps.clear()

    def noted(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            result = run(*arguments, **options)
            synchronize()
            stamps.setdefault(name, time.monotonic())
            return result

        return wrapper

    places: list[tuple[Any, str, str]] = [
        (loop, "decide_packing", "packing tried"),
        (loop, "weights_fingerprint", "base weights read"),
        (loop, "_prepare", "adapter added"),
        (loop, "run_identity", "documents hashed"),
        (trainer.AnswerTrainer, "__init__", "trainer made"),
        (trainer, "logits_can_be_chunked", "chunked loss tried"),
    ]
    with ExitStack() as patched:
        for owner, name, stage in places:
            patched.enter_context(patch.object(owner, name, noted(stage, getattr(owner, name))))
        yield stamps


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
