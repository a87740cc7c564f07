"""Run as a script by `hydralora.harness.sandbox`: limits itself, then runs the program on its standard input."""

import os
import sys

PASSED = 97
"""Exit status of a program that ran to its end. Not 0, which a program that leaves early can return as well."""

_MEMORY = 1 << 30
_READS = {"os.listdir", "os.scandir"}  # what imports do
_REFUSED = {"ctypes", "fcntl", "mmap", "os", "pty", "resource", "shutil", "signal", "socket", "subprocess", "syslog"}


def main() -> None:
    source = sys.stdin.buffer.read()
    _limit(cpu_seconds=int(sys.argv[1]))
    sys.argv = [""]
    sys.addaudithook(_refuse)
    exec(compile(source, "program", "exec"), {"__name__": "program"})
    os._exit(PASSED)


def _limit(cpu_seconds: int) -> None:
    import resource

    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: _MEMORY,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook (PEP 578): no Python code can take it away again."""
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or (event.partition(".")[0] in _REFUSED and event not in _READS):
        raise PermissionError(f"{event} is refused in the sandbox")


if __name__ == "__main__":
    main()
