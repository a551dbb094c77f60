"""The back-end of devices with a caching allocator, on a pretended card."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from device_cases import GIB, MIB, FakeGpu, FakeNeighbours, GpuTraining
from memory_cases import Made

from batchfinder.probe import SearchSpace, probe
from batchfinder.protocols import Setup
from batchfinder.results import Outcome, Trial
from batchfinder.run.memory.device import DeviceMemory, Driver, TorchDriver
from batchfinder.run.trial import run_trial

SAMPLES = Made(lambda size: [0] * size)


def shared(gpu: FakeGpu, limit: int | None = None, *, tells: bool = True) -> DeviceMemory:
    return DeviceMemory(gpu, limit, FakeNeighbours(gpu, tells))


def run(gpu: FakeGpu, memory: DeviceMemory, size: int, **options: Any) -> Trial:
    return run_trial(Setup(GpuTraining(gpu, **options), SAMPLES, memory), size)


def test_the_stand_in_is_a_driver() -> None:
    gpu: Driver = FakeGpu()
    assert gpu.mem_get_info() == (16 * GIB - 300 * MIB, 16 * GIB)


@pytest.mark.parametrize("tells", [True, False])
def test_limit_and_peak_are_of_this_process(tells: bool) -> None:
    gpu = FakeGpu(others=4 * GIB)
    memory = shared(gpu, tells=tells)
    hidden = 0 if tells else 4 * GIB  # what cannot be told from ours stands on both sides
    assert memory.limit_bytes() == 12 * GIB + hidden
    trial = run(gpu, memory, 8)
    assert trial.fits
    assert trial.peak_bytes == 4 * 20 * MIB + 300 * MIB + hidden
    assert trial.reserved_bytes == trial.peak_bytes


def test_a_limit_caps_this_process_context_included() -> None:
    gpu = FakeGpu(total=80 * GIB)
    memory = shared(gpu, 8 * GIB)
    with memory.watch():
        assert gpu.fraction == pytest.approx((8 * GIB - 300 * MIB) / (80 * GIB))
        segment = gpu.allocate(7 * GIB)
        with pytest.raises(torch.OutOfMemoryError):
            gpu.allocate(GIB)
        gpu.free(segment, 7 * GIB)
    assert gpu.fraction == 1.0


def test_the_cap_is_put_back_after_a_failure_too() -> None:
    gpu = FakeGpu(fraction=0.5)
    memory = shared(gpu, 4 * GIB)
    with pytest.raises(KeyError), memory.watch():
        assert gpu.fraction < 0.25
        raise KeyError
    assert gpu.fraction == 0.5


def test_a_cap_that_cannot_be_read_goes_back_to_the_default() -> None:
    gpu = FakeGpu(readable_fraction=False)
    with shared(gpu, 4 * GIB).watch():
        assert gpu.fraction < 0.25
    assert gpu.fraction == 1.0


def test_a_cap_set_before_is_the_limit() -> None:
    gpu = FakeGpu(fraction=0.25)
    memory = shared(gpu)
    assert memory.limit_bytes() == 4 * GIB + 300 * MIB
    assert shared(gpu, 10 * GIB).limit_bytes() == memory.limit_bytes()


def test_watch_waits_for_the_device_before_and_after() -> None:
    gpu = FakeGpu()
    memory = shared(gpu, 4 * GIB)
    with memory.watch():
        assert gpu.calls == ["synchronize", "set_fraction", "reset_peak"]
    assert gpu.calls[3:] == ["synchronize", "set_fraction"]


def test_both_peaks_are_kept() -> None:
    """5 MiB take a segment of 20: tensors follow a line, what is reserved does not."""
    gpu = FakeGpu()
    trial = run(gpu, shared(gpu), 2)
    assert trial.peak_bytes == 20 * MIB + 300 * MIB
    assert trial.reserved_bytes == 80 * MIB + 300 * MIB
    assert trial.retries == 0


class Restless(GpuTraining):
    """Each of its first ``restless`` steps takes larger pieces than the one before."""

    restless = 10**6

    def forward_backward(self, batch: list[int], scale: float = 1.0) -> torch.Tensor:
        if self.restless:
            self.restless -= 1
            self.pieces -= 1
        return super().forward_backward(batch, scale)


def test_flushes_that_go_on_are_the_edge() -> None:
    gpu = FakeGpu(total=1500 * MIB)
    memory = shared(gpu)
    trial = run_trial(Setup(Restless(gpu, pieces=20), SAMPLES, memory), 100)
    assert trial.outcome is Outcome.AT_THE_EDGE and not trial.fits
    assert trial.retries == gpu.retries == 15  # sixteen steps, the first from a released cache
    assert run_trial(Setup(Restless(gpu, pieces=20), SAMPLES, memory), 30).fits


@pytest.mark.parametrize(("restless", "retries"), [(1, 0), (2, 1), (3, 2), (6, 5), (11, 10)])
def test_flushes_that_stop_are_the_cache_settling(restless: int, retries: int) -> None:
    gpu = FakeGpu(total=1500 * MIB)
    training = Restless(gpu, pieces=20)
    training.restless = restless
    trial = run_trial(Setup(training, SAMPLES, shared(gpu)), 100)
    assert trial.fits and trial.batch_size == 100
    assert trial.retries == retries


class OnceInPieces(GpuTraining):
    """Fails as CUDA does, ``times`` times: so much was asked for, so much was there in pieces."""

    times, asked, idle = 1, "2.69 GiB", "2.75 GiB"

    def forward_backward(self, batch: list[int], scale: float = 1.0) -> torch.Tensor:
        if self.times:
            self.times -= 1
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {self.asked}. GPU 0 has a total capacity "
                "of 139.80 GiB of which 117.20 GiB is free. Of the allocated memory 18.24 GiB is "
                f"allocated by PyTorch, and {self.idle} is reserved by PyTorch but unallocated. If "
                "reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF="
            )
        return super().forward_backward(batch, scale)


@pytest.mark.parametrize(
    ("times", "asked", "idle", "fits", "left"),
    [
        (1, "2.69 GiB", "2.75 GiB", True, 0),
        (5, "2.69 GiB", "2.75 GiB", False, 3),  # once more, and not again
        (5, "2.69 GiB", "2754.00 MiB", False, 4),  # less than was asked for: a matter of size
        (5, "784.00 MiB", "150.00 MiB", False, 4),
    ],
)
def test_memory_in_pieces_is_tried_once_more_from_a_released_cache(
    times: int, asked: str, idle: str, fits: bool, left: int
) -> None:
    gpu = FakeGpu()
    training = OnceInPieces(gpu)
    training.times, training.asked, training.idle = times, asked, idle
    trial = run_trial(Setup(training, SAMPLES, shared(gpu)), 8)
    assert (trial.fits, training.times) == (fits, left)
    assert gpu.calls.count("empty_cache") >= 2


def test_failed_trials_hand_the_cache_back() -> None:
    gpu = FakeGpu(total=1500 * MIB)
    memory = shared(gpu)
    trial = run(gpu, memory, 200)
    assert trial.outcome is Outcome.OUT_OF_MEMORY
    assert gpu.reserved() == 0 and gpu.calls[-1] == "empty_cache"


def test_a_driver_that_spills_is_out_of_memory() -> None:
    """Windows and WSL give host memory and raise nothing; the cap cannot always be set."""
    gpu = FakeGpu(total=1500 * MIB, spills=True)
    gpu.set_fraction = lambda fraction: False  # type: ignore[method-assign]
    memory = shared(gpu)
    trial = run(gpu, memory, 130)
    assert trial.outcome is Outcome.OUT_OF_MEMORY and "more than" in trial.note
    assert run(gpu, memory, 110).fits


def test_the_cap_keeps_a_spilling_driver_from_spilling() -> None:
    gpu = FakeGpu(total=1500 * MIB, spills=True)
    trial = run(gpu, shared(gpu), 130)
    assert trial.outcome is Outcome.OUT_OF_MEMORY and "CUDA out of memory" in trial.note


def test_context_that_grows_beyond_the_limit_does_not_fit() -> None:
    gpu = FakeGpu(total=80 * GIB)
    memory = shared(gpu, 1024 * MIB)

    class Loading(GpuTraining):
        def update(self) -> None:
            gpu.context = 600 * MIB  # libraries are loaded at first use

    trial = run_trial(Setup(Loading(gpu), SAMPLES, memory), 60)
    assert trial.outcome is Outcome.OUT_OF_MEMORY
    assert run_trial(Setup(Loading(gpu), SAMPLES, memory), 30).fits


@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize(
    ("change", "disturbed"), [(0, False), (40 * MIB, False), (100 * MIB, True)]
)
def test_another_process_that_moves_disturbs(tells: bool, change: int, disturbed: bool) -> None:
    gpu = FakeGpu(total=4 * GIB, others=GIB)
    memory = shared(gpu, tells=tells)
    assert (
        run_trial(Setup(GpuTraining(gpu, disturb=change // 2), SAMPLES, memory), 8).disturbed
        is disturbed
    )


def test_one_per_cent_of_a_large_limit_is_no_disturbance() -> None:
    gpu = FakeGpu(total=80 * GIB)
    assert not run_trial(
        Setup(GpuTraining(gpu, disturb=200 * MIB), SAMPLES, shared(gpu)), 8
    ).disturbed


def test_a_search_on_a_card_that_is_shared_finds_what_fits() -> None:
    gpu = FakeGpu(total=8 * GIB, others=3 * GIB)
    memory = shared(gpu)
    training = GpuTraining(gpu)
    space = SearchSpace(limit_bytes=memory.limit_bytes(), resolution=0)
    trials = probe(lambda size: run_trial(Setup(training, SAMPLES, memory), size), space)
    largest = max(trial.batch_size for trial in trials if trial.fits)
    assert run_trial(Setup(training, SAMPLES, memory), largest).fits
    assert not run_trial(Setup(training, SAMPLES, memory), largest + 1).fits


class FakeTorchModule:
    """``torch.cuda`` as a name space of functions that take a device."""

    def __init__(self, *, with_fraction: bool = True) -> None:
        self.seen: list[tuple[str, Any]] = []
        if not with_fraction:
            self.hidden = {"set_per_process_memory_fraction", "get_per_process_memory_fraction"}
        else:
            self.hidden = set()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in self.hidden:
            raise AttributeError(name)

        def function(*arguments: Any) -> Any:
            self.seen.append((name, arguments))
            return {"mem_get_info": (1, 2), "get_memory_info": (1, 2), "memory_stats": {}}.get(
                name, 3
            )

        return function


DRIVER_CALLS = (
    "synchronize",
    "empty_cache",
    "memory_allocated",
    "memory_reserved",
    "max_memory_allocated",
    "max_memory_reserved",
    "reset_peak_memory_stats",
    "memory_stats",
    "mem_get_info",
)


@pytest.mark.parametrize("name", DRIVER_CALLS)
def test_drivers_ask_about_their_own_device(name: str) -> None:
    device = torch.device("xpu", 1)
    for driver in (
        TorchDriver(device, FakeTorchModule()),
        TorchDriver(device, FakeTorchModule(), FakeTorchModule()),
    ):
        getattr(driver, name)()
        asked = driver._torch.seen
        assert len(asked) == 1
        assert asked[0][1] == (() if name == "empty_cache" else (device,))
        assert asked[0][0] in {name, "get_memory_info"}


def test_a_device_without_caps_is_still_watched() -> None:
    device = torch.device("xpu", 0)
    plain = FakeTorchModule(with_fraction=False)
    for driver in (TorchDriver(device, plain), TorchDriver(device, plain, plain)):
        assert driver.get_fraction() is None
        assert driver.set_fraction(0.5) is False
    capped = TorchDriver(device, FakeTorchModule())
    assert capped.set_fraction(0.5) and capped.get_fraction() == 3.0


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_device_without_an_index_is_the_current_one(kind: str) -> None:
    """``get_per_process_memory_fraction`` and its like refuse one without."""
    module = FakeTorchModule()
    driver = TorchDriver(torch.device(kind), module)
    for name in (*DRIVER_CALLS, "get_fraction", "device_name"):
        getattr(driver, name)()
    driver.set_fraction(0.5)
    devices = [each for _, arguments in module.seen for each in arguments if each != 0.5]
    assert devices and set(devices) == {torch.device(kind, 3)}


def test_the_functions_asked_for_exist_in_this_torch() -> None:
    for name in (*DRIVER_CALLS, "current_device"):
        assert callable(getattr(torch.cuda, name))
    assert callable(torch.xpu.current_device)
    assert callable(torch.cuda.set_per_process_memory_fraction)
    for name in set(DRIVER_CALLS) - {"mem_get_info"}:
        assert callable(getattr(torch.accelerator, name, getattr(torch.xpu, name, None)))
