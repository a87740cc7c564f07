"""What commands say: progress and errors on stderr, results on stdout."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn


def fail(text: str, code: int = 2) -> NoReturn:
    """End with one sentence on stderr."""
    print(f"hydralora: {text}", file=sys.stderr)
    raise SystemExit(code)


@contextmanager
def one_error(*kinds: type[Exception]) -> Iterator[None]:
    """Tell an expected exception as one sentence, without a traceback."""
    try:
        yield
    except kinds as error:
        fail(str(error))


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """ROLE=NAME pairs as a mapping; anything else ends the command."""
    for pair in pairs:
        role, equals, name = pair.partition("=")
        if not (role and equals and name):
            fail(f"--column: expected ROLE=NAME, for instance prompt=question, got {pair!r}")
    return dict(pair.split("=", 1) for pair in pairs)


def print_json(value: Any) -> None:
    """A value as JSON on stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False, default=str))
