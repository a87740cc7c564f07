"""Measures the energy of a piece of work with codecarbon, without network (Table 4 of the paper)."""

import dataclasses
import importlib.util
import logging
import os
import time
from types import TracebackType
from typing import Any, Self

import torch


@dataclasses.dataclass(frozen=True)
class EnergyUse:
    """Energy in kWh by component, and the time in hours.

    If codecarbon cannot read an energy counter of the processor, it estimates from its rated power and load.
    Processor and memory count for the whole machine. GPUs count only if the run uses them, and only on this machine.
    """

    cpu_kwh: float
    gpu_kwh: float
    ram_kwh: float
    hours: float


class EnergyMeter:
    """Context manager that measures energy; afterwards `use` holds the result, or None if it is disabled.

    Raises:
        ModuleNotFoundError: If it is enabled and codecarbon is not installed.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        if enabled and importlib.util.find_spec("codecarbon") is None:
            raise ModuleNotFoundError("Measuring energy needs codecarbon: pip install codecarbon")
        self.use: EnergyUse | None = None
        self._enabled = enabled
        self._tracker: Any = None

    def __enter__(self) -> Self:
        if self._enabled:
            from codecarbon import OfflineEmissionsTracker

            logging.getLogger("codecarbon").setLevel(logging.ERROR)
            # The country only affects CO2, which we do not report; kWh can be compared between machines.
            self._tracker = OfflineEmissionsTracker(
                country_iso_code="USA",
                gpu_ids=gpus_of_run(),
                output_methods=[],
                log_level="error",
                allow_multiple_runs=True,
            )
            self._tracker.start()
            # `start` first detects the hardware, which takes seconds in a new process, and then begins to measure.
            self._started = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._tracker is None:
            return
        self._tracker.stop()
        hours = (time.monotonic() - self._started) / 3600
        data = self._tracker.final_emissions_data
        self.use = EnergyUse(data.cpu_energy, data.gpu_energy, data.ram_energy, hours)


def gpus_of_run() -> list[int] | None:
    """NVML indices of the GPUs on which this process, or torchrun's processes on this machine, train.

    By default codecarbon counts all GPUs in `CUDA_VISIBLE_DEVICES`, idle ones too, and none if they are given by UUID.
    None, codecarbon's default, is returned without an NVIDIA GPU or if NVML does not know the GPU (a MIG instance).
    """
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return None
    import pynvml  # codecarbon brings it

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    devices = range(processes) if processes > 1 else [torch.cuda.current_device()]
    try:
        pynvml.nvmlInit()
        uuids = [f"GPU-{torch.cuda.get_device_properties(device).uuid}" for device in devices]
        return [pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(uuid)) for uuid in uuids]
    except pynvml.NVMLError:
        return None
