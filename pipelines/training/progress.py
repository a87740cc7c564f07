"""Log lines with the loss and speed of a training."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydralora.training import Progress

# Dagster stores every event of a run. A line every half minute is enough to see that a training makes progress.
SECONDS_BETWEEN_EVENTS = 30.0


def progress_events(log: Callable[[str], object], label: str) -> Callable[["Progress"], None]:
    """A callback that logs loss and speed at most twice a minute, and at the last step."""
    last = -math.inf

    def show(progress: "Progress") -> None:
        nonlocal last
        if time.monotonic() - last < SECONDS_BETWEEN_EVENTS and progress.step < progress.num_steps:
            return
        last = time.monotonic()
        log(
            f"{label}: step {progress.step} of {progress.num_steps}, loss {progress.loss:.3f}, "
            f"{progress.tokens_per_second:.0f} tokens/s"
        )

    return show
