"""Energy of a stretch of work, measured by codecarbon without network (Table 4 of the paper)."""

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
    """Energy by part of the machine, and the time it took.

    Where the processor has no counter that codecarbon may read, it estimates from the processor's rated power and load.
    Processor and memory are those of the whole machine; GPUs are those that the run uses, here on this machine.
    """

    cpu_kwh: float
    gpu_kwh: float
    ram_kwh: float
    hours: float

    @property
    def kwh(self) -> float:
        """Energy of CPU, GPU and memory together, in kWh."""
        return self.cpu_kwh + self.gpu_kwh + self.ram_kwh


class EnergyMeter:
    """Context manager; `use` holds the result after it ended, None if switched off.

    Raises:
        ModuleNotFoundError: it is enabled and codecarbon is not installed.
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
            # The country sets grams of CO2 for a kWh, which is not reported: kWh are what two machines can compare.
            self._tracker = OfflineEmissionsTracker(
                country_iso_code="USA",
                gpu_ids=gpus_of_run(),
                output_methods=[],
                log_level="error",
                allow_multiple_runs=True,
            )
            self._tracker.start()
            # Its start looks for the hardware, for seconds in a process's first meter, before it counts.
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
    """NVML's numbers of the GPUs that this process, or torchrun's processes here, train on; None without NVIDIA's.

    codecarbon would count all that `CUDA_VISIBLE_DEVICES` names, idle ones too, and none where it names them by UUID.
    Where NVML does not know them (parts of a GPU), codecarbon is left to it.
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
