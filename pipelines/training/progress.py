"""Log lines with the loss, the speed and the time left of a training."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydralora.training import Progress

# Dagster stores every event of a run. A line every half minute is enough to see that a training makes progress.
SECONDS_BETWEEN_EVENTS = 30.0


def duration(seconds: float) -> str:
    """A time for people: seconds, or minutes from 90 seconds on."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def progress_events(log: Callable[[str], object], label: str) -> Callable[["Progress"], None]:
    """A callback that logs loss, speed and the time left, at most twice a minute and at the last step."""
    last = -math.inf

    def show(progress: "Progress") -> None:
        nonlocal last
        if time.monotonic() - last < SECONDS_BETWEEN_EVENTS and progress.step < progress.num_steps:
            return
        last = time.monotonic()
        tokens_left = progress.tokens / progress.step * (progress.num_steps - progress.step)
        left = (
            f", about {duration(tokens_left / progress.tokens_per_second)} left"
            if tokens_left and progress.tokens_per_second
            else ""
        )
        log(
            f"{label}: step {progress.step} of {progress.num_steps}, loss {progress.loss:.3f}, "
            f"{progress.tokens_per_second:.0f} tokens/s{left}"
        )

    return show
