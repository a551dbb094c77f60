"""What is done at ordinary steps: next to nothing, and nothing is missed for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monitor_cases import batches, mlp, samples, train
from torch.utils._python_dispatch import TorchDispatchMode

from batchfinder import TrainingMonitor
from batchfinder.monitor import Instability, Kind
from batchfinder.monitor.device_losses import TOGETHER, DeviceLosses
from batchfinder.monitor.gradient_reader import add_joined, in_groups
from batchfinder.monitor.losses import LossWatch, Taken
from batchfinder.monitor.pace import UPDATES
from batchfinder.monitor.parts import count_of
from batchfinder.noise import Sketch


class OnDevice(torch.Tensor):
    """A tensor that says it is not in the host's memory."""

    is_cpu = property(lambda self: False)


class ByHand:
    """A transfer that arrives when the test says so; one for all buffers."""

    def __init__(self) -> None:
        self.here, self.waited = False, 0
        self.held: list[torch.Tensor] = []

    def __call__(self, device: torch.device) -> ByHand:
        return self

    def send(self, numbers: torch.Tensor) -> None:
        self.held.append(numbers.clone())

    def arrived(self) -> bool:
        return self.here

    def numbers(self) -> list[float]:
        self.waited += not self.here
        return self.held.pop(0).tolist()


def noisy(count: int, seed: int) -> np.ndarray:
    """A falling loss with a few spikes and a row that rises."""
    generator = np.random.default_rng(seed)
    losses = 1 + 2 * np.exp(-np.arange(count) / 200) + generator.normal(0, 0.05, count)
    losses[generator.integers(100, count, 3)] += 3
    losses[-40:] += np.linspace(0, 2, 40)
    return losses


# ---- judged together --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_losses_together_tell_what_they_tell_one_by_one(seed: int) -> None:
    losses = noisy(1200, seed)
    alone, together = LossWatch(), LossWatch()
    one_by_one = [
        (step, finding.said)
        for step, loss in enumerate(losses, start=1)
        for finding in alone.see(step, float(loss))
    ]
    taken = [Taken(step, float(loss)) for step, loss in enumerate(losses, start=1)]
    at_once = [
        (step, finding.said)
        for start in range(0, len(taken), 8)
        for step, finding in together.see_all(taken[start : start + 8])
    ]
    assert one_by_one
    assert [(step, str(said)) for step, said in at_once] == [
        (step, str(said)) for step, said in one_by_one
    ]


def watched(**options: object) -> tuple[TrainingMonitor, list[tuple[int, Kind]]]:
    told: list[tuple[int, Kind]] = []

    def note(event: Instability) -> None:
        told.append((monitor.steps, event.kind))

    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"batch_size": 8, "every": 10_000, "observe": note, **options}
    monitor = TrainingMonitor(model, optimizer, **options)
    return monitor, told


def steady(step: int) -> float:
    return 1 + 0.05 * math.sin(7 * step)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_told_in_its_own_step(value: float) -> None:
    monitor, told = watched()
    for step in range(1, 200):
        monitor.step(torch.tensor(value if step == 150 else steady(step)))
    assert (150, Kind.NOT_FINITE) in told


def test_a_spike_is_told_in_the_step_after_it() -> None:
    monitor, told = watched()
    for step in range(1, 300):
        monitor.step(torch.tensor(9.0 if step == 203 else steady(step)))
    assert [each for each in told if each[1] is Kind.SPIKE] == [(204, Kind.SPIKE)]


# ---- on a device ------------------------------------------------------------------------------


def test_losses_of_a_device_are_copied_and_nothing_waits_for_it() -> None:
    transfer = ByHand()
    losses = DeviceLosses(transfer)
    static = torch.zeros((), dtype=torch.bfloat16, requires_grad=True)
    count = 3 * TOGETHER + 4
    for step in range(1, count + 1):
        with torch.no_grad():
            static.fill_(step)  # as the memory of a CUDA graph is
        losses.take(step, static, part=step == 2)
        assert losses.arrived() == []
    assert transfer.waited == 0
    transfer.here = True
    first = losses.arrived()
    assert first == [Taken(step, step, step == 2) for step in range(1, 3 * TOGETHER + 1)]
    transfer.here = False
    assert losses.all() == [Taken(step, step) for step in range(3 * TOGETHER + 1, count + 1)]
    assert transfer.waited == 1
    assert losses.all() == []
    losses.take(99, torch.tensor(5.0), part=False)
    assert losses.all() == [Taken(99, 5.0)], "a buffer used again holds none of the old"


def test_several_losses_in_one_tensor_are_averaged() -> None:
    losses = DeviceLosses(ByHand())
    losses.take(1, torch.tensor([1.0, 2.0], dtype=torch.bfloat16, requires_grad=True), part=False)
    losses.take(2, torch.tensor([[5.0]]), part=False)
    assert losses.all() == [Taken(1, 1.5), Taken(2, 5.0)]


def test_a_device_is_told_of_within_a_few_steps() -> None:
    monitor, told = watched()
    static = torch.zeros(()).as_subclass(OnDevice)
    for step in range(1, 200):
        static.fill_(math.nan if step == 150 else steady(step))
        monitor.step(static)
    (event,) = [each for each in monitor.events if each.kind is Kind.NOT_FINITE]
    assert event.step == 150
    assert next(step for step, kind in told if kind is Kind.NOT_FINITE) <= 150 + TOGETHER


# ---- next to nothing --------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Names of the operations that torch carries out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function._schema.name)
        return function(*args, **(kwargs or {}))


def test_an_ordinary_step_reads_its_loss_and_does_nothing_else() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = TrainingMonitor(model, optimizer, batch_size=8, every=50)
    train(model, optimizer, monitor, batches(8, count=50 + UPDATES))
    loss = torch.tensor(0.9)
    with Operations() as done:
        for step in range(50 + UPDATES + 1, 99):
            list(monitor.parts(samples(8)))
            done.names.clear()
            monitor.step(loss)
            assert done.names == [], step
    assert not model._forward_pre_hooks
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    assert monitor.samples == 98 * 8


def test_an_ordinary_step_on_a_device_copies_its_loss_there() -> None:
    monitor, _ = watched()
    loss = torch.tensor(0.9).as_subclass(OnDevice)
    for _ in range(UPDATES):
        monitor.step(loss)  # the first updates are looked at
    with Operations() as done:
        for _ in range(4):
            monitor.step(loss)
    assert set(done.names) <= {"aten::detach", "aten::copy_", "aten::alias"}
    assert done.names.count("aten::copy_") == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_ordinary_step_waits_for_a_gpu() -> None:
    monitor, told = watched()
    losses = [torch.tensor(steady(step), device="cuda") for step in range(1, 200)]
    for loss in losses[:40]:
        monitor.step(loss)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for loss in losses[40:]:
            monitor.step(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    monitor.step(losses[0] * math.nan)
    for loss in losses[:60]:
        torch.cuda.synchronize()
        monitor.step(loss)
    assert next(step for step, kind in told if kind is Kind.NOT_FINITE) <= 200 + TOGETHER


def test_the_share_of_a_whole_batch_leaves_the_loss_as_it_is() -> None:
    monitor, _ = watched()
    ((batch, share),) = monitor.parts(samples(8))
    loss = torch.tensor(0.5, requires_grad=True) * 2
    assert share * loss is loss
    assert torch.equal(loss * share, loss)
    assert share == 1.0 and share * 3 == 3.0 and f"{share:.2f} {share}" == "1.00 1.0"
    counts = torch.tensor([1, 2])
    assert torch.equal(share * counts, 1.0 * counts) and (share * counts).is_floating_point()
    assert len(batch[0]) == 8


@pytest.mark.parametrize("share_first", [True, False])
def test_both_orders_of_the_loop_train_alike(share_first: bool) -> None:
    def end(watch: bool) -> list[torch.Tensor]:
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        monitor = TrainingMonitor(model, optimizer, batch_size=8, every=50)
        for batch in batches(8, count=49):
            optimizer.zero_grad()
            for part, share in monitor.parts(batch) if watch else [(batch, 1.0)]:
                loss = torch.nn.functional.cross_entropy(model(part[0]), part[1])
                (share * loss if share_first else loss * share).backward()
            optimizer.step()
            monitor.step(loss)
        return [parameter.detach().clone() for parameter in model.parameters()]

    assert all(map(torch.equal, end(True), end(False)))


@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.Adam])
def test_small_gradients_held_together_are_those_of_their_backward(
    monkeypatch: pytest.MonkeyPatch, optimizer_type: type[torch.optim.Optimizer]
) -> None:
    """Accumulation by hand ends its last micro-batch after clipping and the update."""

    def readings(small: int) -> list[list[float]]:
        monkeypatch.setattr("batchfinder.monitor.gradient_reader.SMALL", small)
        monkeypatch.setattr("batchfinder.monitor.gradient_reader.SMALL", small)
        model = mlp()
        optimizer = optimizer_type(model.parameters(), lr=0.05)
        monitor = TrainingMonitor(model, optimizer, batch_size=16, every=3)
        stream = batches(8, count=120)
        for first, second in zip(stream, stream, strict=True):
            optimizer.zero_grad()
            for part in (first, second):
                loss = torch.nn.functional.cross_entropy(model(part[0]), part[1])
                (loss / 2).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
            monitor.step(loss)
        return [
            [each.gradient_norm, each.gradient_squared, each.noise_trace]
            for each in monitor.history.readings
        ]

    together = readings(2**16)
    assert len(together) == 19
    assert np.allclose(together, readings(0), rtol=1e-4)


def test_a_mapping_of_tensors_is_counted() -> None:
    assert count_of({"x": torch.zeros(5, 3), "y": torch.zeros(5)}) == 5
    assert count_of({"x": torch.zeros(5, 3), "y": torch.zeros(5), "scale": torch.tensor(1.0)}) == 5
    assert count_of({}) is None
    assert count_of({"scale": torch.tensor(1.0)}) is None


@pytest.mark.parametrize("small", [1, 40, 200, 2**16])
def test_weights_sketched_together_count_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    torch.manual_seed(0)
    parts = [torch.randn(shape) for shape in [(5,), (20, 4), (1,), (0,), (30,), (150,)]]
    parts.insert(2, torch.randn(6, dtype=torch.complex64))
    parts.insert(4, torch.randn(3, 4).t())
    parts.append(torch.randn(7, dtype=torch.bfloat16))
    sketch = Sketch(parts, 16)
    for index, part in enumerate(parts):
        sketch.add(index, part)
    expected = sketch.finish()
    monkeypatch.setattr("batchfinder.monitor.gradient_reader.SMALL", small)
    add_joined(sketch, in_groups(enumerate(parts)))
    assert sketch.finish() == pytest.approx(expected, rel=1e-4, abs=1e-5)
