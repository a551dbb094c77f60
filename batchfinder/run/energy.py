"""The energy that a device has drawn, by NVML's counter.

The counter runs since the driver was loaded, in millijoules (NVML API,
``nvmlDeviceGetTotalEnergyConsumption``; Volta and newer). Zeus (You et al. 2023, NSDI) reads it so:
before and after a window of work that the device has finished.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from batchfinder.run.memory import handle_of, nvml_and_uuid

__all__ = ["EnergyCounter", "NvmlEnergy", "energy_counter"]


class EnergyCounter(Protocol):
    """The joules that a device has drawn since some fixed moment."""

    def joules(self) -> float | None:
        """``None`` where the device does not tell."""
        ...


class NvmlEnergy:
    """The whole GPU's counter, other processes' work and the idle draw included.

    Args:
        uuid: of the GPU, with or without its prefix.
        nvml: the module ``pynvml``, or a stand-in.
    """

    def __init__(self, uuid: str, nvml: Any) -> None:
        self._uuid = uuid
        self._nvml = nvml

    def joules(self) -> float | None:
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None
        try:
            millijoules = nvml.nvmlDeviceGetTotalEnergyConsumption(handle_of(nvml, self._uuid))
        except nvml.NVMLError:  # an older card, or a slice of one
            return None
        finally:
            nvml.nvmlShutdown()
        return float(millijoules) / 1000


def energy_counter(device: torch.device) -> EnergyCounter | None:
    """The counter of ``device``; ``None`` where it has none that tells."""
    if device.type != "cuda":
        return None
    nvml, uuid = nvml_and_uuid(device)
    if nvml is None or uuid is None:
        return None
    counter = NvmlEnergy(uuid, nvml)
    return None if counter.joules() is None else counter
