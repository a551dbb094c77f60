"""Clean-up after a failure: what it does, in which order, and from where it may be called."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from device_cases import FakeGpu, GpuTraining
from memory_cases import CPU, linear_training

from batchfinder.run import attempt as recover_module
from batchfinder.run.attempt import flush_autograd, recover
from batchfinder.run.memory import backend_for
from batchfinder.run.memory.device import DeviceMemory


def test_references_go_before_the_cache_is_handed_back(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    gpu = FakeGpu()
    training = GpuTraining(gpu)
    monkeypatch.setattr(training, "zero_grad", lambda: order.append("gradients"))
    monkeypatch.setattr(recover_module, "flush_autograd", lambda _: order.append("graph"))
    monkeypatch.setattr(recover_module.gc, "collect", lambda upto: order.append(f"cycles {upto}"))
    gpu.calls = order
    recover(training, DeviceMemory(gpu))
    assert order == ["gradients", "graph", "cycles 2", "synchronize", "empty_cache"]


def test_cycles_of_the_users_are_collected() -> None:
    step, _ = linear_training()
    cycle: list[object] = [torch.zeros(1000)]
    cycle.append(cycle)
    seen = weakref.ref(cycle[0].untyped_storage())  # type: ignore[attr-defined]  # the tensor
    gc.disable()
    try:
        del cycle
        assert seen() is not None
        recover(step, backend_for(CPU, "1MB"))
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_autograd_is_flushed_in_any_mode(mode: Callable[[], object]) -> None:
    before = torch.get_rng_state()
    with mode():  # type: ignore[attr-defined]  # all three are contexts
        flush_autograd(CPU)
    assert torch.equal(before, torch.get_rng_state())


def test_a_retry_inside_the_handler_would_keep_the_failed_step() -> None:
    """Why clean-up stands outside ``except``: the traceback keeps the frames."""
    seen: list[weakref.ref[torch.UntypedStorage]] = []

    def fail() -> None:
        large = torch.zeros(1000)
        seen.append(weakref.ref(large.untyped_storage()))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    step, _ = linear_training()
    memory = backend_for(CPU, "1MB")
    try:
        fail()
    except torch.OutOfMemoryError:
        recover(step, memory)
        assert seen[0]() is not None
    recover(step, memory)
    assert seen[0]() is None
