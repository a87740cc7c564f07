import signal

import dagster as dg
import pytest

from pipelines.run import run


@dg.asset
def made() -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion("0a1b"))


@dg.asset
def failed() -> None:
    raise dg.Failure("No.", allow_retries=False)


@dg.asset
def stopped() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [dg.define_asset_job(asset.key.path[-1], [asset]) for asset in (made, failed, stopped)]
    monkeypatch.setattr("pipelines.definitions.defs", dg.Definitions([made, failed, stopped], jobs=jobs))
    monkeypatch.setattr(dg.DagsterInstance, "get", dg.DagsterInstance.ephemeral)


def test_a_run_says_what_it_made() -> None:
    assert run({"loggers": {}}, "made") == {"made": "0a1b"}


def test_a_failed_run_makes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run({"loggers": {}}, "failed") is None
    assert "failed. The same command goes on" in capsys.readouterr().err


def test_a_stopped_run_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        run({"loggers": {}}, "stopped")
