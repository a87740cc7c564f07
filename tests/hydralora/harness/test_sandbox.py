import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hydralora.harness import sandbox
from hydralora.harness.humaneval import score_samples, solves
from hydralora.harness.sandbox import Sandbox, SandboxError


def why_not() -> str:
    try:
        Sandbox().check()
    except SandboxError as error:
        return str(error)
    return ""


REASON = why_not()
isolated = pytest.mark.skipif(REASON != "", reason=REASON)


def passes(program: str, test: str = "f()") -> bool:
    return Sandbox().passes(program, test, names=["f"])


def gives(body: str, expected: object) -> bool:
    """Whether the body of a function, run in the sandbox, returns what is expected."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return passes(f"def f():\n{lines}", f"assert f() == {expected!r}")


def ends_in(body: str, error: type[Exception]) -> bool:
    """Whether it raises this very kind of error. A typing error in a test would raise another."""
    lines = "\n".join(f"        {line}" for line in body.splitlines())
    handler = f"    except {error.__name__} as error:\n        return type(error).__name__"
    return passes(f"def f():\n    try:\n{lines}\n{handler}", f"assert f() == {error.__name__!r}")


@isolated
def test_a_program_passes_if_its_tests_do() -> None:
    program = "import collections, math, re\ndef f(x, *, y=1):\n    print('é' * 10**6)\n    return math.isqrt(x) + y"
    assert passes(program, "assert f(10) == 4 and f(10, y=2) == 5")
    assert not passes(program, "assert f(10) == 5")


@isolated
def test_what_a_function_raises_reaches_the_tests() -> None:
    program = "def f(x):\n    return [1][x]"
    assert passes(program, "try:\n    f(1)\n    assert False\nexcept IndexError:\n    pass")
    assert not passes(program, "try:\n    f(1)\nexcept KeyError:\n    pass")
    for odd in ("class Own(Exception): pass\ndef f(): raise Own", "def f(): b'\\xff'.decode()", "def f(): raise 1"):
        assert not passes(odd)
        assert passes(odd, "try:\n    f()\n    x = 1\nexcept Exception:\n    x = 2\nassert x == 2")


@isolated
@pytest.mark.parametrize(
    "program",
    [
        "def f(:",
        "raise SystemExit(0)",
        "def f(): raise SystemExit(0)",
        "import os\nos._exit(0)",
        "def f():\n    import sys\n    return sys.stdin.read(1)[0]",
        "def f(): return f()",
        "def f(): return object()",
        "def g(): return 1",
        "def f():\n    x = []\n    x.append(x)\n    return x",
    ],
)
def test_a_program_that_does_not_answer_fails(program: str) -> None:
    assert not passes(program)


LEAVING = [
    "import sys; sys.exit(97)",
    "import os; os._exit(97)",
    "import os; os._exit(0)",
    "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "import os, signal; os.kill(1, signal.SIGKILL)",
    "import atexit, os; atexit.register(os._exit, 0); raise SystemExit",
    "import os\nfor n in range(32):\n    try: os.close(n)\n    except OSError: pass",
    "import os\nfor n in range(32):\n    try: os.write(n, b'ready\\n' + b'0' * 64)\n    except OSError: pass",
    "import os\nfor n in range(32):\n    try: os.write(n, b'null\\n' * 99)\n    except OSError: pass",
    'import os\nfor n in range(32):\n    try: os.write(n, b\'{"error": "SystemExit"}\\n\' * 9)\n    except OSError: pass',  # noqa: E501
    "import os\nfor n in range(32):\n    try: os.write(n, b'[' * 60000 + b'\\n')\n    except OSError: pass",
    'import os\nfor n in range(32):\n    try: os.write(n, b\'{"value": {"eval": [1]}}\\n\')\n    except OSError: pass',
    "import builtins; builtins.AssertionError = builtins.Exception; builtins.compile = None",
    "import json; json.dumps = lambda x: '{\"value\": true}'",
    "import sys; sys._getframe(1).f_globals['encode'] = lambda x: {'bytes': []}",
    "import sys; sys.settrace(lambda *a: None); sys.excepthook = print; sys.stdout = None",
    "class Equal(int):\n    __eq__ = lambda *a: True\n    __hash__ = int.__hash__\nf = lambda: Equal()",
]


@isolated
@pytest.mark.parametrize("where", ["at the start", "when called"])
@pytest.mark.parametrize("trick", LEAVING)
def test_no_trick_passes_for_a_right_answer(trick: str, where: str) -> None:
    body = trick.replace("\n", "\n    ")
    program = f"def f(): return 0\n{trick}" if where == "at the start" else f"def f():\n    {body}\n    return 0"
    assert not passes(program, "assert f() == 12345")
    assert not passes(program, "try:\n    assert f() == 12345\nexcept ValueError:\n    pass")


@isolated
def test_the_program_finds_neither_tests_nor_token() -> None:
    search = (
        "import gc, sys\n"
        "def f():\n"
        "    frame, found = sys._getframe(), []\n"
        "    while frame:\n"
        "        found += list(frame.f_locals.items()) + list(frame.f_globals.items())\n"
        "        frame = frame.f_back\n"
        "    found += [o for o in gc.get_objects() if isinstance(o, (str, bytes, list, dict, tuple))]\n"
        "    text = repr(found) + repr(sys.orig_argv)\n"
        "    return ' '.join(['not', 'to', 'be', 'found']) in text, '\": \"'.join(['token', '']) in text\n"
    )
    assert passes(search, "# not to be found\nassert f() == (False, False)")


@isolated
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/etc/shadow", "/proc/1/environ", "/proc/self/status", "/dev/mem", "/sys/kernel", "/home"]
)
def test_the_system_is_out_of_sight(path: str) -> None:
    assert ends_in(f"import os\nos.stat({path!r})", FileNotFoundError)


@isolated
def test_the_parent_is_out_of_sight(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("text")
    assert gives("import os\nreturn os.path.exists('/proc'), os.getppid()", (False, 1))
    assert gives(f"import os\nreturn os.path.exists({str(tmp_path)!r})", False)
    assert ends_in(f"import os\nos.kill({os.getpid()}, 0)", ProcessLookupError)


@isolated
def test_nothing_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    assert gives(
        "import os\nreturn dict(os.environ), os.environb.copy(), os.listdir(), os.getuid()", ({}, {}, [], 65534)
    )
    assert gives("import socket\nreturn socket.gethostname()", "sandbox")
    opened = (
        "import os\nfound = []\nfor n in range(256):\n    try: os.fstat(n); found.append(n)\n    except OSError: pass\n"
    )
    with open(os.devnull) as file:
        os.set_inheritable(file.fileno(), True)
        assert gives(opened + "return found", [0, 1, 2, 3, 4])


@isolated
@pytest.mark.parametrize("flags", ["os.O_CREAT", "os.O_TRUNC", "os.O_RDWR", "os.O_WRONLY | os.O_APPEND"])
def test_no_file_is_opened_for_writing(tmp_path: Path, flags: str) -> None:
    path = tmp_path / "precious"
    path.write_text("text")
    for target in (path, "/etc/ld.so.cache", json.__file__, sys.executable):
        opened = f"os.open({str(target)!r}, {flags})"
        written = f"import os\ndef f():\n    try: return os.write({opened}, b'x')\n    except OSError: return -1"
        assert passes(written, "assert f() == -1")
    assert ends_in(f"import os\nos.open('/created', {flags} | os.O_CREAT)", OSError)
    assert path.read_text() == "text"
    assert list(tmp_path.iterdir()) == [path]


@isolated
@pytest.mark.parametrize(
    "harm",
    [
        "os.mkfifo('/made')",
        "os.mkdir('/made')",
        "os.symlink('/', '/made')",
        "os.mknod('/tmp/null', 0o020666, os.makedev(1, 3))",
        "os.mknod('/dev/made')",
        "os.chmod('/', 0o777)",
        "os.chown('/tmp', 0, 0)",
        "os.setuid(0)",
        "os.chroot('/tmp')",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], dict())",
        "import _posixsubprocess, subprocess; subprocess.run(['/usr/bin/touch', '/tmp/made'])",
        "import sqlite3; sqlite3.connect('/made').execute('create table t (x)')",
        "import threading; threading.Thread(target=print).start()",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))",
        "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (99, 99))",
        "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
        "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
        "import socket; socket.getaddrinfo('example.org', 80)",
        "import socket; socket.socket(socket.AF_UNIX).connect({unix!r})",
        "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
        "import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
        "import socket; socket.if_nameindex()",
    ],
)
def test_harm_is_refused_also_without_a_guard_in_python(tmp_path: Path, harm: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as unix:
        name = f"\0hydralora-test-{os.getpid()}"  # abstract: it needs no file
        unix.bind(name)
        unix.listen()
        harm = harm.format(port=listener.getsockname()[1], unix=name)
        errors = "(OSError, RuntimeError, ValueError, Exception)"
        program = f"import os\ndef f():\n    try:\n        {harm}\n    except {errors} as error:\n"
        program += "        return type(error).__name__\n    return 'done'"
        kinds = ("PermissionError", "OSError", "FileNotFoundError", "BlockingIOError", "RuntimeError", "gaierror")
        kinds += ("OperationalError", "ConnectionRefusedError", "ValueError")  # type: ignore[assignment]
        assert passes(program, f"assert f() in {kinds}"), harm


@isolated
def test_no_namespace_is_made_and_no_mount_taken_away() -> None:
    call = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    for flag in (0x10000000, 0x00020000, 0x40000000):  # CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET
        assert gives(call + f"return libc.unshare({flag})", -1)
    assert gives(call + "return libc.umount2(b'/usr', 2), libc.mount(b'none', b'/tmp', b'tmpfs', 0, 0)", (-1, -1))


@isolated
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are this machine's")
def test_calls_that_no_namespace_confines_are_refused() -> None:
    call = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    refused = {  # by the filter, with EPERM
        "add_key": "248, b'user', b'left', b'text', 4, -4",
        "io_uring_setup": "425, 1, ctypes.create_string_buffer(120)",
        "ptrace": "101, 16, 1, 0, 0",
        "socket of the second set of numbers": "0x40000000 + 41, 1, 1, 0",
    }
    for name, arguments in refused.items():
        assert gives(f"{call}return libc.syscall({arguments}), ctypes.get_errno()", (-1, 1)), name


@isolated
def test_no_process_is_made_by_the_bare_call() -> None:
    call = "import ctypes\nlibc = ctypes.CDLL(None)\nSIGCHLD = 17\n"
    assert gives(f"{call}return libc.syscall(56, SIGCHLD, 0, 0, 0, 0), libc.syscall(435, 0, 0)", (-1, -1))


@isolated
def test_another_program_in_its_place_and_a_planted_module_change_no_verdict() -> None:
    answer = "import os; [os.write(n, b'{\\\"value\\\": 12345}\\\\n' * 9) for n in range(32)]"
    program = (
        f"import os, sys\ndef f():\n    os.execv(sys.executable, [sys.executable, '-I', '-S', '-c', \"{answer}\"])"
    )
    assert not passes(program, "assert f() == 1")
    planted = "def f():\n    open('/tmp/json.py', 'w').write('raise SystemExit(0)')\n    return 0"
    assert not passes(planted, "f()\nimport json\nassert f() == 1")
    assert passes(planted, "f()\nimport json\nassert f() == 0")


def test_a_machine_whose_calls_are_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "sparc")
    with pytest.raises(SandboxError, match=r"expected a machine of x86_64, aarch64, got sparc\. Install"):
        Sandbox().passes("def f(): return 1", "f()", names=["f"])


@isolated
def test_the_folder_is_small_and_private() -> None:
    assert gives("open('a', 'w').write('x')\nreturn open('/tmp/a').read()", "x")
    assert gives("import os\nreturn os.listdir('/tmp')", [])
    fill = "for i in range(99):\n    open(str(i), 'wb').write(bytes(1 << 19))"
    assert ends_in(fill, OSError)
    assert not passes("import signal\ndef f(): open('a', 'wb').write(bytes(1 << 22))")
    assert ends_in("import os\nos.chdir('/')\nopen('a', 'w')", OSError)


@isolated
def test_much_memory_is_refused() -> None:
    assert ends_in("bytearray(3 << 30)", MemoryError)
    assert not passes("def f():\n    x = []\n    while True: x.append(bytearray(1 << 24))")


@isolated
def test_much_output_goes_nowhere() -> None:
    flood = (
        "import sys\ndef f():\n    for _ in range(200): sys.stdout.write('x' * 10**6); sys.stderr.write('x' * 10**6)\n"
    )
    assert passes(flood + "    return 1", "assert f() == 1")
    assert not passes("def f(): return 'x' * (1 << 25)", "assert len(f()) == 1 << 25")


@isolated
def test_programs_without_end_are_killed_with_all_they_left(monkeypatch: pytest.MonkeyPatch) -> None:
    start = time.monotonic()
    assert not passes("def f():\n    while True: pass")
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 1.5)
    for waiting in ("import time\ntime.sleep(100)", "import signal\nsignal.pthread_sigmask(0, range(1, 65))\ninput()"):
        body = waiting + "\nwhile True: signal.pause()" if "signal" in waiting else waiting
        assert not passes(body)
    assert not passes("def f(): return 1", "import time\ntime.sleep(100)")
    assert time.monotonic() - start < 40
    assert processes_of(os.getpid()) == []


def processes_of(pid: int) -> list[str]:
    """Children, dead ones too, and bubblewraps that lost their parent."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = (
                stat.read_text().rsplit(")", 1)[0].partition("(")[2],
                stat.read_text().rsplit(")", 1)[1].split(),
            )
        except OSError:
            continue
        if int(fields[1]) == pid and name in ("bwrap", "python3.11", "setpriv"):
            found.append(name)
    return found


@isolated
def test_a_fork_bomb_does_not_start() -> None:
    bomb = "import os\ndef f():\n    made = 0\n    for _ in range(1000):\n        try:\n"
    bomb += "            made += os.fork() > 0\n        except BlockingIOError:\n            pass\n    return made"
    assert passes(bomb, "assert f() == 0")


def test_without_bubblewrap_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("started"))
    with pytest.raises(SandboxError, match=r"run only under bubblewrap, got no `bwrap` here\. Install bubblewrap"):
        Sandbox().check()


def test_a_bubblewrap_that_is_refused_is_an_error_and_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(refusing))
    with pytest.raises(SandboxError, match=r"does not start here .*No permissions to create new namespace\. Install"):
        Sandbox().passes("def f(): return 1", "f()", names=["f"])


def test_unsafe_programs_still_get_their_verdict_from_the_checker() -> None:
    unsafe = Sandbox(isolated=False)
    unsafe.check()
    assert not unsafe.passes("import os\nos._exit(97)", "f()", names=["f"])
    assert not unsafe.passes("def f(): return bytearray(3 << 30)", "f()", names=["f"])
    assert unsafe.passes("import os\ndef f(): return len(os.environ)", "assert f() == 0", names=["f"])


@isolated
def test_scores_of_a_problem() -> None:
    doc = {"prompt": "def one():\n", "test": "def check(f):\n    assert f() == 1\n", "entry_point": "one"}
    doc["prompt"] += '    """One."""\n'
    completions = ["    return 1"] * 3 + ["    return 2"] * 6 + ["    return ("]
    assert score_samples(doc, [completions]) == {"pass@1": pytest.approx(0.3), "pass@10": 1.0}
    assert score_samples(doc, [["    return 2"] * 10]) == {"pass@1": 0, "pass@10": 0}


@isolated
def test_solutions_of_humaneval_pass(shared_corpora: Path) -> None:
    problems = pq.read_table(shared_corpora / "humaneval_test.parquet").to_pylist()[::8]
    for problem in problems:
        assert solves(problem, problem["canonical_solution"], Sandbox()), problem["task_id"]
        assert not solves(problem, "    return None", Sandbox()), problem["task_id"]
