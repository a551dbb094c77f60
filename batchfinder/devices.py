"""The memory of common accelerators, by name: total memory only, as their vendors state it.

Vendors state gigabytes, and do not say of which kind. They are read as decimal here (10⁹ bytes),
which is never more than the device has: the driver of a card of "80 GB" may report up to 80 GiB,
7% more. The figures were entered from knowledge of the documents named, and not checked against
them again. Throughput is not in the table, since nobody can foretell it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from batchfinder.errors import InvalidArgument

__all__ = ["DEVICES", "Device", "find_device"]


@dataclass(frozen=True)
class Device:
    """One accelerator: its name, its memory in gigabytes, and whose document says so."""

    name: str
    memory_gb: float
    source: str

    @property
    def memory_bytes(self) -> int:
        """Total memory, in bytes."""
        return int(self.memory_gb * 10**9)


DEVICES = (
    Device("T4", 16, "NVIDIA T4 Tensor Core GPU data sheet"),
    Device("P100", 16, "NVIDIA Tesla P100 data sheet"),
    Device("V100-16GB", 16, "NVIDIA V100 Tensor Core GPU data sheet"),
    Device("V100-32GB", 32, "NVIDIA V100 Tensor Core GPU data sheet"),
    Device("A10", 24, "NVIDIA A10 Tensor Core GPU data sheet"),
    Device("A16", 16, "NVIDIA A16 GPU data sheet (64 GB in four devices)"),
    Device("A30", 24, "NVIDIA A30 Tensor Core GPU data sheet"),
    Device("A40", 48, "NVIDIA A40 GPU data sheet"),
    Device("A100-40GB", 40, "NVIDIA A100 Tensor Core GPU data sheet"),
    Device("A100-80GB", 80, "NVIDIA A100 Tensor Core GPU data sheet"),
    Device("L4", 24, "NVIDIA L4 Tensor Core GPU data sheet"),
    Device("L40", 48, "NVIDIA L40 GPU data sheet"),
    Device("L40S", 48, "NVIDIA L40S GPU data sheet"),
    Device("H100", 80, "NVIDIA H100 Tensor Core GPU data sheet (SXM and PCIe)"),
    Device("H100-NVL", 94, "NVIDIA H100 Tensor Core GPU data sheet (NVL)"),
    Device("H200", 141, "NVIDIA H200 Tensor Core GPU data sheet"),
    Device("B200", 180, "NVIDIA DGX B200 data sheet (1440 GB in eight devices)"),
    Device("RTX-3060", 12, "NVIDIA GeForce RTX 3060 product page"),
    Device("RTX-3090", 24, "NVIDIA GeForce RTX 3090 product page"),
    Device("RTX-4090", 24, "NVIDIA GeForce RTX 4090 product page"),
    Device("RTX-5090", 32, "NVIDIA GeForce RTX 5090 product page"),
    Device("RTX-A6000", 48, "NVIDIA RTX A6000 data sheet"),
    Device("RTX-6000-Ada", 48, "NVIDIA RTX 6000 Ada Generation data sheet"),
    Device("MI210", 64, "AMD Instinct MI210 data sheet"),
    Device("MI250X", 64, "AMD Instinct MI250X data sheet (128 GB in two devices)"),
    Device("MI300X", 192, "AMD Instinct MI300X data sheet"),
    Device("MI325X", 256, "AMD Instinct MI325X data sheet"),
)


def find_device(name: str) -> Device:
    """The device called ``name``; case, blanks and dashes do not matter.

    Raises:
        InvalidArgument: where no device, or more than one, is called so.
    """
    wanted = _plain(name)
    for device in DEVICES:
        if _plain(device.name) == wanted:
            return device
    similar = [device.name for device in DEVICES if wanted and wanted in _plain(device.name)]
    known = ", ".join(similar or [device.name for device in DEVICES])
    raise InvalidArgument(
        f"expected a device among {known}; found {name!r}. For another device pass memory= "
        'instead, such as memory="24GB"'
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
