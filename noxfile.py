"""Tests of the method at both ends of the supported ranges: `nox -l` lists the sessions, `nox -s oldest` runs one.

Not part of CI, which tests the versions of requirements.lock. Each session installs into an environment of its own.
"""

import os

import nox

nox.options.sessions = ["oldest", "newest"]
TESTS = ["tests/hydralora/adapter", "tests/hydralora/ops", "tests/hydralora/gates", "tests/hydralora/methods"]
OLDEST = ["transformers==5.17.*", "peft==0.20.*", "accelerate==1.10.*", "numpy==2.0.*", "jaxtyping==0.3.0"]
# Always a fixed release, so that pip does not choose gigabytes of CUDA. HYDRALORA_TORCH takes another, such as 2.11.0.
TORCH = f"torch=={os.environ.get('HYDRALORA_TORCH', '2.13.0')}"


def _test(session: nox.Session, *versions: str) -> None:
    session.install("-e", ".", TORCH, *versions, "pytest", "pytest-timeout", "hypothesis", "beartype", "datasets")
    session.run("python", "-m", "pytest", "-q", "-m", "not slow and not gpu and not network", *TESTS, *session.posargs)


@nox.session(python=["3.11"])
def oldest(session: nox.Session) -> None:
    """The lower ends of pyproject.toml, on the oldest Python."""
    _test(session, *OLDEST)


@nox.session(python=["3.11", "3.14"])
def newest(session: nox.Session) -> None:
    """The newest versions that pyproject.toml allows."""
    _test(session)


@nox.session(python=False)
def peft(session: nox.Session) -> None:
    """The oldest PEFT beside the other installed packages: a quick look, without another torch."""
    folder = session.create_tmp()
    session.run("python", "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "peft==0.20.*")
    command = ["python", "-m", "pytest", "-q", "-m", "not slow and not gpu and not network", *TESTS, *session.posargs]
    session.run(*command, env={"PYTHONPATH": folder})
