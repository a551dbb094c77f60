"""Who else is on an NVIDIA GPU, as a pretended NVML tells it."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from device_cases import MIB

from batchfinder.run.memory.nvml import GpuProcess, NoNeighbours, NvmlNeighbours


class NvmlError(Exception):
    pass


class FakeNvml:
    """``pynvml``: GPUs, MIG slices and processes by handle."""

    NVMLError = NvmlError

    def __init__(self, running: dict[str, list[tuple[int, int | None]]], *, broken: bool = False):
        self.running, self.broken, self.open = running, broken, 0
        self.drawing: list[tuple[int, int]] = []
        self.slices: list[dict[int, str]] = []

    def nvmlInit(self) -> None:  # noqa: N802  # NVML's name
        if self.broken:
            raise NvmlError
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802  # NVML's name
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802  # NVML's name
        if uuid not in self.running:
            raise NvmlError
        return uuid

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802  # same
        return [SimpleNamespace(pid=p, usedGpuMemory=b) for p, b in self.running[handle]]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> list[Any]:  # noqa: N802  # same
        if handle.startswith("MIG"):
            raise NvmlError
        return [SimpleNamespace(pid=p, usedGpuMemory=b) for p, b in self.drawing]

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802  # NVML's name
        return len(self.slices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802  # NVML's name
        return index

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: int) -> int:  # noqa: N802  # NVML's name
        if not self.slices[gpu]:
            raise NvmlError  # not a card that can be sliced
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: int, place: int) -> str:  # noqa: N802  # same
        if place not in self.slices[gpu]:
            raise NvmlError  # an empty place
        return self.slices[gpu][place]

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802  # NVML's name
        return handle


OWN = os.getpid()


def neighbours(nvml: FakeNvml, uuid: str = "GPU-1") -> NvmlNeighbours:
    return NvmlNeighbours(uuid, nvml)


def test_other_processes_are_named() -> None:
    nvml = FakeNvml({"GPU-1": [(OWN, 10), (10**9, 500 * MIB)]})
    told = neighbours(nvml)
    assert told.other_bytes(5) == 500 * MIB
    assert told.processes() == (GpuProcess(10**9, "a process outside this container", 500 * MIB),)
    assert nvml.open == 0


def test_a_process_that_computes_and_draws_counts_once() -> None:
    nvml = FakeNvml({"GPU-1": [(OWN, 10), (10**9, 7)]})
    nvml.drawing = [(10**9, 7), (10**9 + 1, 5)]
    assert neighbours(nvml).other_bytes(5) == 12


def test_a_slice_is_found_by_its_own_name() -> None:
    assert neighbours(FakeNvml({"MIG-1": [(OWN, 10), (10**9, 7)]}), "1").other_bytes(5) == 7


def test_a_slice_is_found_on_its_card() -> None:
    """Older drivers name a slice by its card's identifier and two numbers."""
    name = "MIG-GPU-aaa/1/0"
    nvml = FakeNvml({name: [(OWN, 10), (10**9, 9)]})
    nvml.slices = [{}, {2: "MIG-GPU-bbb/1/0", 5: name}]
    assert neighbours(nvml, "aaa").other_bytes(5) == 9


@pytest.mark.parametrize(
    ("running", "reserved", "expected"),
    [
        ([], 0, 0),  # nobody there, and we have taken nothing yet
        ([], 5, None),  # we are there, and are not listed
        ([(10**9, 7)], 5, None),  # listed by numbers of the host
        ([(OWN, 7), (10**9, None)], 5, None),  # Windows does not tell bytes
        ([(OWN, 7)], 5, 0),
    ],
)
def test_what_nvml_does_not_tell(
    running: list[tuple[int, int | None]], reserved: int, expected: int | None
) -> None:
    assert neighbours(FakeNvml({"GPU-1": running})).other_bytes(reserved) == expected


def test_a_broken_nvml_is_no_error() -> None:
    for nvml in (FakeNvml({}, broken=True), FakeNvml({})):
        assert neighbours(nvml).other_bytes(5) is None
        assert neighbours(nvml).processes() == ()
        assert nvml.open == 0
    assert NoNeighbours().other_bytes(5) is None and NoNeighbours().processes() == ()
