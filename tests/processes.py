"""Other processes, as tests of killed trainings watch them."""

import subprocess
import time
from pathlib import Path


def wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, f"ended with {process.returncode} before {path.name} was there"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def processes_of(folder: Path) -> list[int]:
    """Living processes with the folder in their command line; torchrun gives each worker a group of its own."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in command.read_bytes():
                found.append(int(command.parent.name))
        except OSError:
            continue  # it ended while we looked
    return found
