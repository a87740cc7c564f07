import itertools
from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest

from hydralora.harness import sandbox
from hydralora.harness.humaneval import pass_at_k, score_samples
from hydralora.harness.sandbox import SandboxError, check_sandbox, passes


def test_a_program_passes_if_it_runs_to_its_end() -> None:
    assert passes("import collections, math, re\nassert math.isqrt(10) == 3\nprint('é' * 10**5)")
    check_sandbox()


@pytest.mark.parametrize(
    "program",
    [
        "assert 1 == 2",
        "def f(:",
        "raise SystemExit(0)",
        "import os\nos._exit(0)",
        "import sys\nsys.stdin.read(1)[0]",
        "x = bytearray(1 << 31)",
        "def f(): return f()\nf()",
    ],
)
def test_anything_else_fails(program: str) -> None:
    assert not passes(program)


@pytest.mark.parametrize(
    "harm",
    [
        "open({path!r}, 'w')",
        "open({path!r}, 'a')",
        "import os; os.remove({path!r})",
        "import os; os.rename({path!r}, {path!r} + '2')",
        "import os; os.open({path!r}, os.O_RDWR)",
        "import os; os.truncate({path!r}, 0)",
        "import pathlib; pathlib.Path({path!r}).unlink()",
        "import shutil; shutil.rmtree({folder!r})",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import os; os.kill(os.getppid(), 0)",
        "import subprocess; subprocess.run(['true'])",
        "import socket; socket.socket()",
        "import ctypes; ctypes.CDLL(None)",
        "import resource; resource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
    ],
)
def test_harm_is_refused(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "precious"
    path.write_text("text")
    harm = harm.format(path=str(path), folder=str(tmp_path))
    # The first program would pass for any exception, also one of a typing error of this test.
    assert not passes(harm)
    assert passes(
        f"try:\n    {harm}\nexcept PermissionError as error:\n    assert 'sandbox' in str(error)\nelse: raise 1"
    )
    assert path.read_text() == "text"


def test_programs_without_end_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "CPU_SECONDS", 1)
    assert not passes("while True: pass")
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 0.5)
    assert not passes("import time\ntime.sleep(100)")


def test_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    assert passes("import os\nassert 'SECRET' not in os.environ\nassert os.listdir() == []")


def test_a_sandbox_that_does_not_work_is_noticed() -> None:
    with patch.object(sandbox, "passes", return_value=False), pytest.raises(SandboxError, match="POSIX"):
        check_sandbox()


def test_pass_at_k_is_the_share_of_draws_with_a_success() -> None:
    for n, k in ((5, 1), (5, 3), (6, 6)):
        for passed in range(n + 1):
            draws = list(itertools.combinations([True] * passed + [False] * (n - passed), k))
            assert pass_at_k(n, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))
    with pytest.raises(ValueError, match="at least 10 samples, got 3"):
        pass_at_k(3, 1, 10)


def test_scores_of_a_problem() -> None:
    doc = {"prompt": "def one():\n", "test": "def check(f):\n    assert f() == 1\n", "entry_point": "one"}
    completions = ["    return 1"] * 3 + ["    return 2"] * 6 + ["    return ("]
    assert score_samples(doc, [completions]) == {"pass@1": pytest.approx(0.3), "pass@10": 1.0}
    assert score_samples(doc, [["    return 2"] * 10]) == {"pass@1": 0, "pass@10": 0}


def test_solutions_of_humaneval_pass(shared_corpora: Path) -> None:
    problems = pq.read_table(shared_corpora / "humaneval_test.parquet").to_pylist()[::8]
    for problem in problems:
        check = f"{problem['test']}\ncheck({problem['entry_point']})"
        assert passes(f"{problem['prompt']}{problem['canonical_solution']}\n{check}"), problem["task_id"]
        assert not passes(f"{problem['prompt']}    return None\n{check}"), problem["task_id"]
