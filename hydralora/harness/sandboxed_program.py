"""The script of both sides of `hydralora.harness.sandbox`: the candidate, and the checker that tests it.

The candidate runs the model's program and answers calls of its functions. The checker runs the tests in another
process. It sends each call of a tested function to the candidate as one line of JSON and gets one line back. Only plain
values are exchanged, so the candidate can answer a call wrongly, but can neither see a test nor change its verdict.
"""

import builtins
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

CPU_SECONDS = 3
READY = b"ready\n"
"""The checker prints this when both sides run, and then the token if the tests pass."""

_MEMORY = 1 << 30
_FILE_SIZE = 1 << 20
_LONGEST_LINE = 1 << 24
_PLAIN = (bool, int, float, str)
_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "iterator": iter,
    "bytes": bytes,
    "complex": lambda parts: complex(*parts),
    "range": lambda bounds: range(*bounds),
    "dict": dict,
}


def encode(value: Any) -> Any:
    """Encode a value of Python's own types as JSON. A subclass becomes its base class; an iterator is consumed.

    Raises:
        TypeError: If the value has any other type.
    """
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    for kind in (tuple, set, frozenset, bytes):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item) for item in value]}
    if isinstance(value, Iterator):
        return {"iterator": [encode(item) for item in value]}
    raise TypeError(f"expected a value of Python's own types, got {type(value).__name__}")


def decode(value: Any) -> Any:
    """Inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        ((kind, items),) = value.items()
        return _SEQUENCES[kind]([decode(item) for item in items])
    return value


def run_candidate() -> None:
    """Run the program from the first input line, then answer one call per line."""
    calls, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _close_standard_streams()
    _send(answers, "ready")
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(json.loads(calls.readline()), "program", "exec"), namespace)
    _send(answers, "loaded")
    for line in calls:
        name, args, kwargs = decode(json.loads(line))
        try:
            answer = {"value": encode(namespace[name](*args, **kwargs))}
        except Exception as error:
            answer = {"error": type(error).__name__}
        _send(answers, answer)


def run_checker(calls: BinaryIO, answers: BinaryIO) -> None:
    """Run the tests, and print the token if they pass.

    Standard input holds a JSON object: `program`, `given` (code that the tests may also use), `test`, `names` (of the
    functions that the tests take from the program, not from `given`), and `token`.
    """
    job = json.loads(sys.stdin.buffer.read())
    verdict = os.fdopen(os.dup(1), "wb")
    _close_standard_streams()
    if _receive(answers) != "ready":
        os._exit(1)
    verdict.write(READY)
    verdict.flush()
    _send(calls, job["program"])
    if _receive(answers) != "loaded":
        os._exit(1)
    namespace: dict[str, Any] = {"__name__": "test"}
    exec(compile(job["given"], "given", "exec"), namespace)
    namespace |= {name: _remote(name, calls, answers) for name in job["names"]}
    exec(compile(job["test"], "test", "exec"), namespace)
    verdict.write(job["token"].encode())
    verdict.flush()
    os._exit(0)


def _remote(name: str, calls: BinaryIO, answers: BinaryIO) -> Callable[..., Any]:
    """A function that calls the candidate's function and raises its exceptions as plain built-in exceptions."""

    def call(*args: Any, **kwargs: Any) -> Any:
        _send(calls, encode((name, args, kwargs)))
        answer = _receive(answers)
        try:
            if "value" in answer:
                return decode(answer["value"])
            kind = getattr(builtins, answer["error"], None)
        except Exception:
            os._exit(1)  # `run_candidate` never writes such a line
        try:
            error = kind() if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError(answer["error"])
        except TypeError:  # UnicodeError's subclasses need arguments
            error = RuntimeError(answer["error"])
        raise error

    return call


def _send(stream: BinaryIO, message: object) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _receive(answers: BinaryIO) -> Any:
    """The next answer. If it is incomplete, the process exits, so that no `except` in the tests can continue."""
    try:
        line = answers.readline(_LONGEST_LINE)
        return json.loads(line) if line.endswith(b"\n") else os._exit(1)
    except Exception:
        os._exit(1)


def _close_standard_streams() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)


def limit() -> None:
    """Set limits that cannot be raised again. The kernel does not limit the number of root's processes."""
    sys.set_int_max_str_digits(0)
    limits = {
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_AS: _MEMORY,
        resource.RLIMIT_FSIZE: _FILE_SIZE,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


def main() -> None:
    """Without arguments: run a candidate program. With two pipes: run the checker that calls it."""
    os.environ.clear()  # bubblewrap sets PWD
    ends = [int(number) for number in sys.argv[1:]]
    for number in range(3, 256):  # close all files of the parent process
        if number not in ends:
            try:
                os.close(number)
            except OSError:
                continue
    # Set limits after closing: file numbers above the limit could not be duplicated.
    if not ends:
        limit()
        run_candidate()
        return
    calls, answers = os.fdopen(ends[0], "wb"), os.fdopen(ends[1], "rb")
    limit()
    run_checker(calls, answers)


if __name__ == "__main__":
    main()
