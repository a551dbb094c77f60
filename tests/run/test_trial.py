from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from memory_cases import CPU, FLOAT, Made, PlainStep, linear_training, squared_error
from torch import nn

from batchfinder.errors import DeviceLost
from batchfinder.protocols import Setup
from batchfinder.results import Outcome
from batchfinder.run.memory import backend_for
from batchfinder.run.memory.cpu import HostMemory
from batchfinder.run.trial import run_trial, tensors_in


def clock_of(*moments: float) -> Any:
    return iter(moments).__next__


def test_a_trial_is_whole_steps_update_included() -> None:
    step, source = linear_training()
    clock = clock_of(10.0, 10.25, 11.25, 11.25, 12.0, 12.5)
    trial = run_trial(Setup(step, source, backend_for(CPU, "1MB")), 3, clock=clock)
    assert trial.fits and trial.batch_size == 3
    assert (trial.seconds, trial.step_seconds) == (2.5, 0.75)
    one = ["zero_grad", "forward_backward", "update"]
    assert step.calls == ["zero_grad", *one, *one, "zero_grad"]
    assert all(parameter.grad is None for parameter in step.parameters())


def test_the_peak_is_the_one_counted_by_hand() -> None:
    width, size = 100, 7
    step, source = linear_training(width)
    trial = run_trial(Setup(step, source, backend_for(CPU, "1MB")), size)
    weight, rows = width * width * FLOAT, size * width * FLOAT
    # backward: weights, inputs and targets; the difference saved by the square, its gradient
    # twice over while the next operator runs, and at last the weights' own gradient
    assert trial.peak_bytes is not None
    assert trial.peak_bytes >= 2 * weight + 3 * rows
    assert trial.peak_bytes <= 2 * weight + 6 * rows + 64


def test_the_second_step_counts() -> None:
    """The first step of SGD with momentum makes its buffers after the peak of backward."""
    width = 100
    weight = width * width * FLOAT
    limit = 2 * weight + 8 * width * FLOAT
    step, source = linear_training(width, momentum=0.9)
    assert run_trial(Setup(step, source, backend_for(CPU, 4 * weight)), 1, steps=1).fits
    step, source = linear_training(width, momentum=0.9)
    one = run_trial(Setup(step, source, backend_for(CPU, 4 * weight)), 1, steps=1).peak_bytes
    step, source = linear_training(width, momentum=0.9)
    two = run_trial(Setup(step, source, backend_for(CPU, 4 * weight)), 1, steps=2).peak_bytes
    assert one is not None and two is not None and two > one > limit - weight


def test_running_out_of_memory_is_an_outcome() -> None:
    step, source = linear_training()
    trial = run_trial(Setup(step, source, backend_for(CPU, 100_000)), 1000)
    assert trial.outcome is Outcome.OUT_OF_MEMORY
    assert "in forward and backward" in trial.note and "100000 bytes" in trial.note
    assert trial.peak_bytes is not None and trial.peak_bytes > 100_000


class Failing(nn.Linear):
    """Raises what it is told to, from a chosen size on."""

    def __init__(self, error: Exception, above: int = 0) -> None:
        super().__init__(4, 4)
        self.error, self.above = error, above

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > self.above:
            raise self.error
        return super().forward(inputs)


def failing_training(error: Exception, above: int = 0) -> tuple[PlainStep, Made]:
    model = Failing(error, above)
    step = PlainStep(model, squared_error, torch.optim.SGD(model.parameters(), lr=0.1))
    return step, Made(lambda size: (torch.zeros(size, 4), torch.zeros(size, 4)))


def test_a_bug_passes_through_as_itself_with_a_note() -> None:
    bug = ValueError("no memory of this")
    step, source = failing_training(bug)
    with pytest.raises(ValueError, match="no memory of this") as caught:
        run_trial(Setup(step, source, backend_for(CPU, "1MB")), 8)
    assert caught.value is bug
    assert bug.__notes__ == ["batchfinder: in forward and backward of a trial at batch size 8"]


@pytest.mark.parametrize("stage", ["loading", "update"])
def test_the_note_names_the_stage(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step, source = linear_training()
    bug = KeyError("gone")

    def fail(*_: object) -> None:
        raise bug

    monkeypatch.setattr(source, "make", fail) if stage == "loading" else monkeypatch.setattr(
        step, "update", fail
    )
    with pytest.raises(KeyError):
        run_trial(Setup(step, source, backend_for(CPU, "1MB")), 8)
    assert bug.__notes__ == [f"batchfinder: in {stage} of a trial at batch size 8"]


def test_an_index_limit_has_its_own_name() -> None:
    limit = RuntimeError("nonzero is not supported for tensors with more than INT_MAX elements")
    step, source = failing_training(limit)
    trial = run_trial(Setup(step, source, backend_for(CPU, "1MB")), 8)
    assert trial.outcome is Outcome.INDEX_LIMIT and "INT_MAX" in trial.note


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: invalid configuration argument",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a "
        "non-contiguous input.",
    ],
)
def test_what_may_be_a_mistake_is_one_at_size_1(text: str) -> None:
    step, source = failing_training(RuntimeError(text))
    assert not run_trial(Setup(step, source, backend_for(CPU, "1MB")), 2).fits
    with pytest.raises(RuntimeError):
        run_trial(Setup(step, source, backend_for(CPU, "1MB")), 1)


def test_a_sticky_error_stops_everything() -> None:
    sticky = RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel ...")
    step, source = failing_training(sticky)
    with pytest.raises(DeviceLost, match="Restart the process") as caught:
        run_trial(Setup(step, source, backend_for(CPU, "1MB")), 8)
    assert caught.value.__cause__ is sticky


def test_a_sticky_error_that_shows_in_the_clean_up_stops_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step, source = failing_training(torch.OutOfMemoryError("CUDA out of memory."))
    memory = backend_for(CPU, "1MB")

    def lost() -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(step, "zero_grad", _once_then(step.zero_grad, lost))
    with pytest.raises(DeviceLost, match="clean-up"):
        run_trial(Setup(step, source, memory), 8)


def _once_then(first: Any, then: Any) -> Any:
    calls = iter([first, first])

    def call() -> Any:
        return next(calls, then)()

    return call


def test_ctrl_c_is_not_an_outcome() -> None:
    step, source = failing_training(KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        run_trial(Setup(step, source, backend_for(CPU, "1MB")), 8)


class Doomed(torch.autograd.Function):
    """Passes forward; its backward allocates beyond any limit."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0] + torch.zeros(10_000_000).sum()


class Witness(nn.Module):
    """Two branches; keeps weak references to the activations of its forward pass.

    When the backward of one branch fails, that of the other waits in autograd's queue.
    """

    def __init__(self, where: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(50, 50) for _ in range(4))
        self.where = where
        self.seen: list[weakref.ref[torch.UntypedStorage]] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        waiting = self.branch(inputs, self.layers[:2])
        inputs = self.branch(inputs, self.layers[2:])
        if self.where == "backward":
            inputs = Doomed.apply(inputs)
        if self.where == "forward":
            inputs = inputs + torch.zeros(10_000_000).sum()
        return inputs + waiting

    def branch(self, inputs: torch.Tensor, layers: Any) -> torch.Tensor:
        for layer in layers:
            inputs = torch.tanh(layer(inputs))
            self.seen.append(weakref.ref(inputs.untyped_storage()))
        return inputs


class DoomedSgd(torch.optim.SGD):
    def step(self, closure: Any = None) -> None:
        torch.zeros(10_000_000)


@pytest.mark.parametrize("where", ["forward", "backward", "update"])
def test_nothing_of_a_failed_trial_is_alive_afterwards(where: str) -> None:
    model = Witness(where)
    kind = DoomedSgd if where == "update" else torch.optim.SGD
    step = PlainStep(model, squared_error, kind(model.parameters(), lr=0.1))
    source = Made(lambda size: (torch.zeros(size, 50), torch.zeros(size, 50)))
    memory = backend_for(CPU, "1MB")
    trial = run_trial(Setup(step, source, memory), 16)
    alive = [reference for reference in model.seen if reference() is not None]
    assert trial.outcome is Outcome.OUT_OF_MEMORY
    assert len(model.seen) == 4 and not alive
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_the_clean_up_a_failed_backward_stays_alive() -> None:
    """What the clean-up is for: this must fail should autograd ever let go by itself."""
    model = Witness("backward")
    step = PlainStep(model, squared_error, torch.optim.SGD(model.parameters(), lr=0.1))
    try:
        with backend_for(CPU, "1MB").watch(model.parameters()):
            step.forward_backward((torch.zeros(16, 50), torch.zeros(16, 50)))
    except torch.OutOfMemoryError:
        pass
    step.zero_grad()
    gc.collect()
    assert any(reference() is not None for reference in model.seen)
    torch.zeros(1, requires_grad=True).sum().backward()


@pytest.mark.parametrize(("budget", "fits"), [(16_000, True), (15_999, False)])
def test_batches_that_the_workers_would_hold_are_counted(
    budget: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers hold a batch each and more ahead: the host's memory may end before the device's."""
    step, source = linear_training(100)
    source.worker_copies = 4  # type: ignore[attr-defined]  # as sources over a loader have it
    monkeypatch.setattr("batchfinder.run.trial.host_budget", lambda: budget)
    memory = HostMemory(CPU, budget=lambda: 10**6)
    trial = run_trial(Setup(step, source, memory), 5)
    assert trial.fits is fits
    if not fits:
        assert trial.outcome is Outcome.OUT_OF_MEMORY
        assert "workers would hold 4 batches, which need 15.6 KiB" in trial.note
    simulated = run_trial(Setup(step, source, backend_for(CPU, "1MB")), 5)
    assert simulated.fits  # the limit is of the device alone


def test_tensors_in_any_batch() -> None:
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)

    class Loose:
        def __init__(self) -> None:
            self.tensor = three

    batch = {"a": one, "b": [two, ("text", 4)], "c": Loose()}
    assert list(tensors_in(batch)) == [one, two, three]
