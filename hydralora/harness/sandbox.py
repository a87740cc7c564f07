"""Programs that a model wrote, each in a process of its own with little to break.

The process has no environment, an empty folder, the standard library alone, limits on time, memory, files and
processes, and refuses writing, networking and starting programs (see `sandboxed_program`). That stops accidents, not an
attacker: for a model you do not trust, run the whole evaluation in a container without network.
"""

import subprocess
import sys
import tempfile

from hydralora.harness import sandboxed_program

CPU_SECONDS = 3
WALL_SECONDS = 20.0
"""Only for programs that wait: on a busy machine a program may need long for its share of CPU time."""


class SandboxError(RuntimeError):
    """The sandbox does not work on this machine."""


def check_sandbox() -> None:
    """See that a correct program passes and a wrong one fails here, before hours of generation depend on it.

    Raises:
        SandboxError: they do not, for instance for want of POSIX resource limits.
    """
    if not passes("import math\nassert math.pi > 3") or passes("assert False"):
        raise SandboxError(
            "Expected a correct program to pass in the sandbox and a wrong one to fail, got otherwise. It needs POSIX "
            "resource limits (Linux): evaluate code there, or leave out the task humaneval."
        )


def passes(program: str) -> bool:
    """Whether a Python program runs to its end without an exception, within the limits."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", sandboxed_program.__file__, str(CPU_SECONDS)],
                input=program.encode(errors="replace"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                timeout=WALL_SECONDS,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == sandboxed_program.PASSED
