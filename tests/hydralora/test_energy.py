"""The meter around codecarbon."""

import importlib.util
import time

import pytest

from hydralora.energy import EnergyMeter


def test_off_by_request() -> None:
    with EnergyMeter(enabled=False) as meter:
        pass
    assert meter.use is None


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install codecarbon"):
        EnergyMeter()


@pytest.mark.slow
def test_a_second_of_work_has_energy() -> None:
    pytest.importorskip("codecarbon")
    with EnergyMeter() as meter:
        time.sleep(1)
    assert meter.use is not None
    assert meter.use.cpu_kwh > 0
    assert meter.use.kwh == meter.use.cpu_kwh + meter.use.gpu_kwh + meter.use.ram_kwh
    assert 1 / 3600 < meter.use.hours < 0.1
