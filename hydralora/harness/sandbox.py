"""Runs programs that a model wrote in isolation: bubblewrap, with namespaces, limits and an empty environment.

Two processes judge a program, each in its own sandbox (`sandboxed_program`). The candidate runs the program. The
checker runs the tests and calls the program's functions through a pipe; it prints a random token when the tests pass.
The token and the tests never enter the candidate's sandbox.

Guarantees, also against a hostile program: it has no network, and no files except Python's standard library and the
system's shared libraries (read-only) and a small private folder. It cannot start processes or threads, sees no others,
and gets no environment variables. It ends after `WALL_SECONDS`. It passes only if it answers every call as the tests
expect.
Limits: a bug in the kernel or in bubblewrap can let the program out; few system calls are filtered (`system_calls`). It
may use the CPU for `CPU_SECONDS` and up to 1 GiB of memory.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydralora.harness import sandboxed_program
from hydralora.harness.system_calls import call_filter

WALL_SECONDS = 20.0
"""It stops programs that wait. It is long because a program gets little CPU time on a busy machine."""

_NOBODY = 65534
_FOLDER_BYTES = 8 << 20


class SandboxError(RuntimeError):
    """The sandbox does not work on this machine."""


@dataclass(frozen=True)
class Sandbox:
    """Where programs run.

    Attributes:
        isolated: Whether bubblewrap isolates them. False keeps only the limits on time, memory and file size, and an
            empty environment. A program can then read and delete all files that you can, and use the network.
    """

    isolated: bool = True

    def check(self) -> None:
        """Check that a correct program passes and a wrong one fails here, before hours of generation depend on it.

        Raises:
            SandboxError: If bubblewrap is missing or does not work here, or a program gets the wrong verdict.
        """
        right, wrong, test = "def f(): return 1", "def f(): return 2", "assert f() == 1"
        if not self.passes(right, test, names=["f"]) or self.passes(wrong, test, names=["f"]):
            raise SandboxError(
                "Expected a correct program to pass in the sandbox and a wrong one to fail, got a wrong verdict. "
                "Evaluate code on another machine (Linux), or leave out the task humaneval."
            )

    def passes(self, program: str, test: str, *, names: Sequence[str], given: str = "") -> bool:
        """Whether the tests end without an exception, within the limits.

        Args:
            program: Python code of the model.
            test: Python code that calls functions of the program. Arguments and results must be of Python's own types
                (numbers, text, bytes, None, lists, tuples, sets, dicts, ranges, iterators); the tests see no change
                that a function makes to its arguments.
            names: Names of the functions that the test takes from the program.
            given: Trusted code whose other names the test may use, such as the problem's helper functions.

        Raises:
            SandboxError: If the sandbox does not start, so that the program was not judged.
        """
        token = secrets.token_hex(32)
        job = {"program": program, "given": given, "test": test, "names": list(names), "token": token}
        output, errors = self._run(json.dumps(job).encode())
        ready, _, verdict = output.partition(sandboxed_program.READY)
        if ready or not output.startswith(sandboxed_program.READY):
            reason = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no answer"]
            raise SandboxError(
                f"The sandbox does not start here (bubblewrap needs user namespaces, version 0.8 or later): {reason[0]}"
                f". {_WAYS_OUT}"
            )
        return secrets.compare_digest(verdict, token.encode())

    def _run(self, job: bytes) -> tuple[bytes, bytes]:
        """The checker's output, and the error output of both sides."""
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            errors = [stack.enter_context(tempfile.TemporaryFile()) for _ in ("candidate", "checker")]
            calls_out, calls_in = os.pipe()
            answers_out, answers_in = os.pipe()
            try:
                stack.enter_context(self._started([], calls_out, answers_in, folder, errors[0].fileno()))
                checker = stack.enter_context(
                    self._started([calls_in, answers_out], subprocess.PIPE, subprocess.PIPE, folder, errors[1].fileno())
                )
            finally:
                for end in (calls_out, calls_in, answers_out, answers_in):
                    os.close(end)
            try:
                output, _ = checker.communicate(job, timeout=WALL_SECONDS)
            except subprocess.TimeoutExpired as late:
                output = late.output or b""
            return output, b"".join(os.pread(file.fileno(), 10_000, 0) for file in errors)

    @contextlib.contextmanager
    def _started(
        self, ends: Sequence[int], stdin: int, stdout: int, folder: str, stderr: int
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start one side. It and all its processes are killed when the context ends."""
        source = Path(sandboxed_program.__file__).read_text()
        command = [_interpreter(), "-I", "-S", "-B", "-X", "utf8", "-c", source, *map(str, ends)]
        filters = [_filter()] if self.isolated else []
        pid_out, pid_in = os.pipe()
        try:
            process = subprocess.Popen(
                [*_isolation(pid_in, filters[0]), *command] if self.isolated else command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd="/" if self.isolated else folder,
                env={},
                pass_fds=[*ends, pid_in, *filters],
                start_new_session=True,
            )
        except BaseException:
            os.close(pid_out)
            raise
        finally:
            for end in (pid_in, *filters):
                os.close(end)
        try:
            yield process
        finally:
            _end(process, pid_out)


def _end(process: subprocess.Popen[bytes], pid_out: int) -> None:
    """Kill a side: kill bubblewrap's first process, then the kernel ends all others of its namespace.

    bubblewrap itself must stay alive to wait for that process. Otherwise the dead process remains as a zombie in a
    container without an init process.
    """
    with open(pid_out, "rb", buffering=0) as stream:
        found = re.search(rb'"child-pid": (\d+)', stream.read(200) if process.poll() is None else b"")
    with contextlib.suppress(ProcessLookupError):
        if found:
            os.kill(int(found[1]), signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
        os.killpg(process.pid, signal.SIGKILL)
    for end in (process.stdin, process.stdout):
        if end is not None:
            with contextlib.suppress(BrokenPipeError):
                end.close()
    process.wait()


_WAYS_OUT = (
    "Install bubblewrap (Debian: apt-get install bubblewrap) or evaluate on another machine, leave out the task "
    "humaneval, or set unsafe_no_isolation to run the model's programs with all your rights."
)


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SandboxError(f"Programs that a model wrote run only under bubblewrap, got no `{name}` here. {_WAYS_OUT}")
    return path


def _interpreter() -> str:
    """The real interpreter. The virtual environment's is a link, and its folder has packages that no program needs."""
    return os.path.realpath(sys.executable)


def _filter() -> int:
    """A pipe's end from which bubblewrap reads the filter of system calls."""
    filter_out, filter_in = os.pipe()
    try:
        os.write(filter_in, call_filter())
    except ValueError as error:
        os.close(filter_out)
        raise SandboxError(f"{error}. {_WAYS_OUT}") from None
    finally:
        os.close(filter_in)
    return filter_out


def _isolation(pid_in: int, filter_out: int) -> list[str]:
    """The command that runs another one in the sandbox; bubblewrap writes the pid of its first process to `pid_in`.

    The kernel does not limit the number of root's processes, even in a user namespace. So root first becomes the user
    `nobody`. Mounts under /tmp let `nobody` reach Python even if it is installed in root's home.
    """
    bubblewrap, paths = _tool("bwrap"), _read_only_paths()
    sources = [str(path) for path in paths]
    command = []
    if os.geteuid() == 0:
        sources = [f"/tmp/{i}" for i in range(len(paths))]
        command += [bubblewrap, "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", "/tmp"]
        for path, source in zip(paths, sources, strict=True):
            command += ["--ro-bind", str(path), source]
        command += ["--", _tool("setpriv"), f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--"]
    command += [
        *(bubblewrap, *(f"--unshare-{kind}" for kind in ("user", "ipc", "pid", "net", "uts", "cgroup"))),
        *("--disable-userns", "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"),
        *("--uid", str(_NOBODY), "--gid", str(_NOBODY), "--hostname", "sandbox"),
        *("--info-fd", str(pid_in), "--seccomp", str(filter_out)),
    ]
    for path, source in zip(paths, sources, strict=True):
        command += ["--ro-bind", source, str(path)]
    command += ["--dev-bind", "/dev/null", "/dev/null"]
    command += ["--size", str(_FOLDER_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    return [*command, "--"]


def _read_only_paths() -> list[Path]:
    """The interpreter, its standard library, and the shared libraries of the system."""
    base, platform = Path(sys.base_prefix), sysconfig.get_config_var("MULTIARCH") or "lib"
    folders = [base / "lib", base / "lib64", *(Path(top) / platform for top in ("/lib", "/usr/lib"))]
    folders += [Path("/lib64"), Path("/usr/lib64"), Path("/etc/ld.so.cache"), Path(_interpreter())]
    return list(dict.fromkeys(path for path in folders if path.exists()))
