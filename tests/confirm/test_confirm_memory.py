"""What a confirmation counts: the batch and the step, as in a trial, and not the data set."""

from __future__ import annotations

import pytest
import torch
from memory_cases import CPU, FLOAT, PlainStep
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder.confirm import confirm
from batchfinder.protocols import MemoryBackend, Setup
from batchfinder.results import BatchPlan
from batchfinder.run.batches import endless, source_from
from batchfinder.run.memory import backend_for
from batchfinder.run.memory.cpu import HostMemory
from batchfinder.run.trial import run_trial

WIDTH, SAMPLES = 20, 20_000


def training(limit: str) -> tuple[PlainStep, object, MemoryBackend]:
    torch.manual_seed(0)
    model = nn.Linear(WIDTH, 1)
    step = PlainStep(
        model,
        lambda net, batch: net(batch[0]).square().mean(),
        torch.optim.SGD(model.parameters(), lr=1e-3),
    )
    data = TensorDataset(torch.randn(SAMPLES, WIDTH))
    return step, source_from(DataLoader(data, 16, shuffle=True)), backend_for(CPU, limit)


def test_the_storage_of_a_data_set_is_not_charged() -> None:
    step, source, memory = training("1MiB")  # the data set alone is 1.5 MiB
    found = confirm(Setup(step, source, memory), BatchPlan(16), None, steps=4)
    assert found.held, found.detail


@pytest.mark.parametrize("plan", [BatchPlan(256), BatchPlan(256, 3)])
def test_the_peak_is_that_of_a_trial(plan: BatchPlan) -> None:
    """So that a size that fitted in its trial is not refused here."""
    step, source, memory = training("1MiB")
    trial = run_trial(Setup(step, source, memory), plan.micro_batch).peak_bytes
    assert trial is not None
    found = confirm(Setup(step, source, memory), plan, None, steps=4)
    assert found.held, found.detail
    small = WIDTH * FLOAT * 16  # gradients between micro-batches, and losses kept
    assert trial <= found.peak_bytes <= trial + small


def test_a_batch_drawn_uncounted_counts_itself() -> None:
    step, source, memory = training("64KiB")
    found = confirm(Setup(step, source, memory), BatchPlan(1024), None, steps=4)
    assert found.out_of_memory


@pytest.mark.parametrize(
    "memory",
    [backend_for(CPU, "1MB"), HostMemory(CPU, budget=lambda: 10**6)],
    ids=["limit", "host"],
)
def test_paused_work_is_not_counted_and_charged_tensors_are(memory: MemoryBackend) -> None:
    with memory.watch():
        with memory.paused():
            kept = [torch.zeros(10**6)]
        torch.zeros(10)
        memory.hold([torch.zeros(10)])
        with pytest.raises(torch.OutOfMemoryError):
            memory.hold(kept)
    kept.clear()
    with memory.watch():
        with memory.paused():
            torch.zeros(10**6)
        torch.zeros(1000)
    assert memory.peak_bytes() == 4000


class Loader:
    """Batches of given sizes, as a source would rebuild them."""

    unit = "samples"

    def __init__(self, sizes: list[int], ceiling: int | None = None) -> None:
        self.sizes, self.ceiling = sizes, ceiling

    def rebuild(self, size: int) -> list[str]:
        return ["x" * each for each in self.sizes]

    def count(self, batch: str) -> int:
        return len(batch)

    def ordinary(self, size: int) -> str:
        return "o" * size


def first(source: Loader, size: int, count: int = 4) -> list[str]:
    feed = endless(source, size)  # type: ignore[arg-type]  # as much of a source as is needed
    return [next(feed) for _ in range(count)]


def test_a_ragged_last_batch_is_left_out() -> None:
    assert first(Loader([3, 3, 1]), 3) == ["xxx"] * 4


def test_an_epoch_without_a_whole_batch_gives_ordinary_ones() -> None:
    assert first(Loader([2]), 3) == ["ooo"] * 4
    assert first(Loader([]), 3) == ["ooo"] * 4
    assert first(Loader([2], ceiling=2), 3) == ["oo"] * 4


def test_a_stream_that_never_gives_a_whole_batch_ends_somewhere() -> None:
    assert first(Loader([2] * 10**4), 3, 2) == ["ooo"] * 2


def test_a_token_budget_is_seldom_filled_and_nothing_is_left_out() -> None:
    source = Loader([2, 3, 1])
    source.unit = "tokens"
    assert first(source, 3) == ["xx", "xxx", "x", "xx"]


def test_batch_norm_meets_no_batch_of_one() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    step = PlainStep(
        model,
        lambda net, batch: net(batch[0]).square().mean(),
        torch.optim.SGD(model.parameters(), lr=1e-3),
    )
    source = source_from(DataLoader(TensorDataset(torch.randn(1025, 2)), 16))
    found = confirm(Setup(step, source, backend_for(CPU, "16MiB")), BatchPlan(1024), None, steps=4)
    assert found.held, found.detail
