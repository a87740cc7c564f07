"""The meter around codecarbon."""

import importlib.util
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from hydralora.training.outputs.energy import EnergyMeter, gpus_of_run


def test_off_by_request() -> None:
    with EnergyMeter(enabled=False) as meter:
        pass
    assert meter.use is None


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install codecarbon"):
        EnergyMeter()


@pytest.mark.parametrize(
    ("processes", "known", "numbers"),
    [("1", "aa bb cc dd", [3]), ("2", "aa bb cc dd", [2, 3]), ("1", "aa bb", None)],
)
def test_counts_the_gpus_of_the_run(
    monkeypatch: pytest.MonkeyPatch, processes: str, known: str, numbers: list[int] | None
) -> None:
    """Two are visible, and the process is on the second of them; NVML may know them among four, or not."""
    visible = ["cc", "dd"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=visible[device]))
    nvml = SimpleNamespace(
        NVMLError=ValueError,  # what `index` raises
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=[f"GPU-{uuid}" for uuid in known.split()].index,
        nvmlDeviceGetIndex=lambda handle: handle,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpus_of_run() == numbers


@pytest.mark.slow
def test_a_second_of_work_has_energy() -> None:
    pytest.importorskip("codecarbon")
    with EnergyMeter() as meter:
        time.sleep(1)
    assert meter.use is not None
    assert meter.use.cpu_kwh > 0
    assert 1 / 3600 < meter.use.hours < 0.1
