"""The simulated limit, the choice of a back-end, Apple's GPUs, and the one contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from device_cases import GIB, MIB, FakeGpu
from memory_cases import CPU, FLOAT, linear_training

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import MemoryBackend, Setup
from batchfinder.run.memory import active_limit, backend_for, memory_limit
from batchfinder.run.memory import choice as limits_module
from batchfinder.run.memory.cpu import HostMemory
from batchfinder.run.memory.device import DeviceMemory
from batchfinder.run.memory.mps import MpsMemory
from batchfinder.run.memory.simulated import SimulatedMemory
from batchfinder.run.trial import run_trial

KIB = 1024


def test_memory_limit_raises_the_real_error() -> None:
    with memory_limit("2KiB") as memory:
        kept = torch.zeros(256)
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(512)
        assert memory.peak_bytes() == 3 * KIB, kept
        assert memory.held_bytes() == KIB
        assert "2.00 KiB" in memory.name
    assert torch.zeros(512).numel() == 512
    assert memory.held_bytes() == KIB


def test_a_model_made_before_counts_when_it_is_used() -> None:
    layer = torch.nn.Linear(256, 256, bias=False)
    with memory_limit("200KiB"), pytest.raises(torch.OutOfMemoryError):
        layer(torch.zeros(1, 256)).sum().backward()
    with memory_limit(2 * 256 * 256 * FLOAT + 3 * KIB):
        layer(torch.zeros(1, 256)).sum().backward()


@pytest.mark.parametrize("limit", ["", "lots", 0, -1, "0GB", float("nan")])
def test_a_limit_that_cannot_be_meant(limit: Any) -> None:
    with pytest.raises(InvalidArgument, match="bytes"), memory_limit(limit):
        pass


def test_the_innermost_limit_is_active() -> None:
    assert active_limit() is None
    with memory_limit("2KiB") as outer:
        assert active_limit() is outer
        with memory_limit("1KiB") as inner:
            assert active_limit() is inner
        assert active_limit() is outer
        with pytest.raises(KeyError), memory_limit("1KiB"):
            raise KeyError
        assert active_limit() is outer
    assert active_limit() is None


def test_a_limit_that_is_paused_and_watched_again() -> None:
    """As a search does inside a limit: its book-keeping is free, its trials are not."""
    step, source = linear_training(100)
    with memory_limit("200KB"):
        limit = active_limit()
        assert limit is not None
        with limit.paused():
            copies = [torch.zeros(10**6) for _ in range(3)]
            assert run_trial(Setup(step, source, limit), 4).fits
            assert not run_trial(Setup(step, source, limit), 400).fits
            copies.append(torch.zeros(10**6))
        assert limit.peak_bytes() == 0, copies
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(10**6)


def test_what_the_caller_holds_counts_in_the_trials() -> None:
    step, source = linear_training(100)
    alone = run_trial(Setup(step, source, backend_for(CPU, "200KB")), 4).peak_bytes
    with memory_limit("200KB"):
        own = torch.zeros(10_000)
        limit = active_limit()
        assert limit is not None and alone is not None
        with limit.paused():
            assert (
                run_trial(Setup(step, source, limit), 4).peak_bytes == alone + own.numel() * FLOAT
            )


def test_backends_by_device() -> None:
    assert isinstance(backend_for(CPU, "1MB"), SimulatedMemory)
    assert isinstance(backend_for(CPU), HostMemory)
    assert backend_for(CPU, "1MB").limit_bytes() == 10**6
    meta = backend_for(torch.device("meta"), 10**6)
    with meta.watch(), pytest.raises(torch.OutOfMemoryError, match="META"):
        torch.zeros(10**6, device="meta")


def test_a_device_of_no_known_kind_needs_a_limit() -> None:
    with pytest.raises(InvalidArgument, match="memory_limit="):
        backend_for(torch.device("meta"))


def test_a_gpus_limit_is_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = FakeGpu()
    monkeypatch.setattr(limits_module, "backend_for", lambda _, limit: DeviceMemory(gpu, limit))
    with memory_limit(4 * GIB, "cuda") as memory:
        assert active_limit() is None
        assert gpu.fraction * gpu.total == pytest.approx(4 * GIB - 300 * MIB)
        assert memory.limit_bytes() == 4 * GIB
    assert gpu.fraction == 1.0


class FakeMps:
    """``torch.mps``: tensors are the CPU's, which the back-end is told to follow."""

    def __init__(self) -> None:
        self.driver = 0
        self.ratios: list[float] = []
        self.calls: list[str] = []

    def recommended_max_memory(self) -> int:
        return 16 * GIB

    def current_allocated_memory(self) -> int:
        return 5

    def driver_allocated_memory(self) -> int:
        return self.driver

    def set_per_process_memory_fraction(self, ratio: float) -> None:
        self.ratios.append(ratio)

    def synchronize(self) -> None:
        self.calls.append("synchronize")

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")


def test_apples_memory_is_followed_by_the_ledger() -> None:
    mps = FakeMps()
    memory = MpsMemory(4 * GIB, mps, CPU)
    with memory.watch():
        torch.zeros(256)
    assert memory.peak_bytes() == KIB
    assert mps.ratios == [0.25, 1.7]
    assert mps.calls == ["synchronize", "synchronize"]
    memory.release()
    assert mps.calls[-1] == "empty_cache"


def test_what_apples_kernels_took_counts_too() -> None:
    mps = FakeMps()
    memory = MpsMemory(None, mps, CPU)
    assert memory.limit_bytes() == 16 * GIB
    mps.driver = 7 * MIB
    with memory.watch():
        torch.zeros(256)
    assert memory.peak_bytes() == 7 * MIB


def test_apples_watermark_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    mps = FakeMps()
    for text, expected in [("0.8", 0.8), ("nonsense", 1.7), ("9", 1.7), ("", 1.7)]:
        monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", text)
        memory = MpsMemory(KIB, mps, CPU)
        with pytest.raises(torch.OutOfMemoryError), memory.watch():
            torch.zeros(512)
        assert mps.ratios[-1] == expected
        assert memory.peak_bytes() == 2 * KIB


BACKENDS: dict[str, Callable[[], MemoryBackend]] = {
    "simulated": lambda: backend_for(CPU, GIB),
    "host": lambda: backend_for(CPU),
    "device": lambda: DeviceMemory(FakeGpu()),
    "MPS": lambda: MpsMemory(None, FakeMps(), CPU),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_the_contract_of_a_backend(name: str) -> None:
    memory = BACKENDS[name]()
    assert memory.name and isinstance(memory.is_simulated, bool)
    with memory.watch(iter([torch.zeros(256)])):
        torch.zeros(1000)
    assert 0 <= memory.peak_bytes() <= memory.limit_bytes()
    with pytest.raises(KeyError), memory.watch():
        raise KeyError
    for figure in (memory.held_bytes, memory.pressure, memory.other_processes_bytes):
        assert figure() >= 0
    memory.synchronize()
    memory.release()
    memory.reset_peak()


def test_watch_does_not_keep_what_it_is_given() -> None:
    """A list of gradients handed to ``watch`` must not keep them alive through the step."""
    memory = backend_for(CPU, GIB)
    with memory.watch([torch.zeros(256)]):
        assert memory.held_bytes() == 0
