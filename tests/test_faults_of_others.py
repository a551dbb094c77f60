"""Faults that finders in use have or had, each by name; none of them may be ours.

Names of projects and issue numbers say where the fault was seen; nothing of theirs is run here.
"""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import batchfinder as bf
from batchfinder.noise import MicroBatchVariance
from batchfinder.training import Search


class Counted(nn.Module):
    """Raises out-of-memory above so many rows; keeps the sizes of all batches that it saw."""

    def __init__(self, most: int = 10**9, error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.register_buffer("noise", torch.zeros(1), persistent=False)
        self.most, self.error = most, error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(x) is torch.Tensor:  # not the stand-ins of a rehearsal, which hold no memory
            seen.append(len(x))
        self.noise += torch.rand(1)
        if len(x) > self.most:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.layer(x)


seen: list[int] = []


@pytest.fixture(autouse=True)
def _forget() -> None:
    seen.clear()


def rows(count: int, **arguments: Any) -> DataLoader[Any]:
    dataset = TensorDataset(torch.randn(count, 4), torch.randint(2, (count,)))
    return DataLoader(dataset, **{"batch_size": 2, "shuffle": True, **arguments})


def probe(model: nn.Module, loader: Any, **arguments: Any) -> bf.ProbeResult:
    return bf.max_batch_size(model, loader, **{"memory_limit": "4GiB", **arguments})


@pytest.mark.parametrize("true_maximum", [64, 70, 100, 8000])
def test_lightning_returns_a_size_that_it_never_ran(true_maximum: int) -> None:
    found = probe(Counted(true_maximum), rows(20_000), at_most=8192, search=Search(resolution=0))
    assert found.max_batch_size in seen
    assert found.max_batch_size == true_maximum


def test_lightning_returns_a_size_above_its_own_ceiling() -> None:
    found = probe(Counted(), rows(5000), at_most=100)
    assert (found.max_batch_size, max(seen)) == (100, 100)
    assert found.limited_by is bf.Limit.USER


def test_lightning_with_drop_last_trains_on_no_batch_at_all() -> None:
    found = probe(Counted(), rows(50, drop_last=True))
    assert found.max_batch_size <= 50


def test_lightning_3259_a_batch_larger_than_the_dataset() -> None:
    assert probe(Counted(), rows(300)).max_batch_size == 300


def test_lightning_credits_a_trial_to_a_size_that_it_did_not_run() -> None:
    found = probe(Counted(47), rows(500), search=Search(resolution=0))
    whole_trials = [trial.batch_size for trial in found.trials]
    assert list(dict.fromkeys(size for size in seen if size != 2)) == [
        size for size in whole_trials if size != 2
    ]


def test_lightning_13851_trials_that_run_no_step_and_succeed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("batchfinder.probe.runner._LONG_SECONDS", float("inf"))  # on any machine
    found = probe(Counted(), rows(64))
    for trial in found.trials:
        assert seen.count(trial.batch_size) >= 2


def test_lightning_nothing_fits_without_a_message() -> None:
    with pytest.raises(bf.NothingFits, match="checkpointing"):
        probe(Counted(0), rows(64))


def test_lightning_18813_modes_and_random_numbers_left_changed(tmp_path: Path) -> None:
    model = Counted(40)
    model.layer.eval()
    state, gradient = torch.get_rng_state(), torch.ones(2, 4)
    model.layer.weight.grad = gradient.clone()
    probe(model, rows(500))
    assert not model.layer.training
    assert model.training
    assert torch.equal(model.layer.weight.grad, gradient)
    assert model.noise.item() == 0
    # building the loader above drew numbers itself, so compare with the same drawing alone
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    rows(500)
    assert torch.equal(torch.get_rng_state(), after)


def test_lightning_21401_a_checkpoint_file_written_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    probe(Counted(40), rows(500))
    assert list(tmp_path.iterdir()) == []


def test_accelerate_takes_22_runs_and_21_failures() -> None:
    found = probe(Counted(9), rows(500), search=Search(resolution=0))
    assert found.max_batch_size == 9
    assert sum(not trial.fits for trial in found.trials) <= 4


def test_accelerate_starts_the_second_call_where_the_first_ended() -> None:
    model, loader = Counted(9), rows(500)
    first = probe(model, loader, search=Search(resolution=0))
    model.most = 33
    second = probe(model, loader, search=Search(resolution=0))
    assert (first.max_batch_size, second.max_batch_size) == (9, 33)


def test_torch_max_mem_keeps_the_failed_trials_tensors_alive() -> None:
    failed: list[weakref.ref[torch.Tensor]] = []

    class Pinned(Counted):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert [each for each in failed if each() is not None] == []
            hidden = self.layer(x)
            if len(x) > self.most:
                failed.append(weakref.ref(hidden))
                raise torch.OutOfMemoryError("simulated")
            return hidden

    gc.disable()
    try:
        probe(Pinned(47), rows(500), search=Search(resolution=0))
    finally:
        gc.enable()
    assert failed


@pytest.mark.parametrize("bug", [ValueError, TypeError, KeyError])
def test_batch_finder_reads_a_bug_as_out_of_memory(bug: type[Exception]) -> None:
    with pytest.raises(bug):
        probe(Counted(100, bug), rows(500))


@pytest.mark.parametrize("true_maximum", [1, 47])
def test_batchtune_fails_where_the_maximum_is_below_its_own_steps(true_maximum: int) -> None:
    found = probe(Counted(true_maximum), rows(300), search=Search(resolution=0))
    assert found.max_batch_size == true_maximum


def test_ultralytics_trusts_a_straight_line_far_beyond_it() -> None:
    class Pairwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.layer(x)
            return torch.cdist(hidden, hidden).mean(1, keepdim=True).expand(-1, 2)

    found = probe(Pairwise(), rows(20_000), memory_limit="8MiB", search=Search(resolution=0))
    assert found.limited_by is bf.Limit.MEMORY
    outcomes = {trial.batch_size: trial.fits for trial in found.trials}
    assert outcomes[found.max_batch_size]
    assert outcomes[found.max_batch_size + 1] is False


def test_accelerate_and_yolov5_a_result_of_no_python_int() -> None:
    report = bf.find_batch_size(
        Counted(),
        rows(64),
        memory_limit="64MiB",
        base_learning_rate=0.1,
        noise=MicroBatchVariance(warmup_steps=4),
    )
    assert type(report.batch_size) is int
    assert type(report.max_batch_size) is int


def test_torchinfo_prints_what_it_returns(capfd: pytest.CaptureFixture[str]) -> None:
    probe(Counted(9), rows(64))
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_lightning_11604_loaders_must_sit_on_the_module() -> None:
    class Rows(Dataset[tuple[torch.Tensor, int]]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return torch.full((4,), float(index)), index % 2

    assert probe(Counted(), DataLoader(Rows(), batch_size=4)).max_batch_size == 40
