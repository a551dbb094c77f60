"""One stage alone, through the front door, against truth."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.noise import MicroBatchVariance
from batchfinder.run.state import preserved
from batchfinder.session import Budget
from batchfinder.training import Search


def population(rows: int = 2048) -> TensorDataset:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(rows, 6, generator=generator)
    noise = 0.7 * torch.randn(rows, generator=generator)
    return TensorDataset(inputs, (inputs[:, 0] - inputs[:, 1] + noise > 0).long())


def network() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2))


def exact_noise_scale(model: nn.Module, dataset: TensorDataset) -> float:
    """tr(Σ)/|G|² from every sample's own gradient, the dataset being the whole population."""
    gradients = []
    for x, y in zip(*dataset.tensors, strict=True):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[None]), y[None]).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.zero_grad()
    each = torch.stack(gradients).double()
    mean = each.mean(0)
    return float(((each - mean) ** 2).sum(1).mean() / (mean**2).sum())


def exactly(samples: int, **more: int) -> MicroBatchVariance:
    """So many samples, however narrow the interval is before."""
    return MicroBatchVariance(samples=samples, narrow_enough=0.0, **more)


@pytest.mark.slow
def test_the_noise_scale_is_the_exact_one_in_the_median_over_seeds() -> None:
    model, dataset = network(), population()
    truth = exact_noise_scale(model, dataset)
    loader = DataLoader(dataset, batch_size=16, shuffle=True)
    found = [
        bf.gradient_noise_scale(model, loader, noise=exactly(512), seed=seed, loss_fn=cross_entropy)
        for seed in range(20)
    ]
    ratio = statistics.median(each.value for each in found) / truth
    assert 1 / 1.35 < ratio < 1.35
    covered = sum(each.low <= truth <= each.high for each in found)
    assert covered >= 14  # 18 are expected; fewer than 14 of 20 has a chance below 0.3%
    assert all(each.samples <= 512 for each in found)


def cross_entropy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output, target)


def test_a_warm_up_is_taken_and_undone() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    loader = DataLoader(population(), batch_size=32, shuffle=True)
    with preserved(model, optimizer) as snapshot:
        at_start = bf.gradient_noise_scale(model, loader, optimizer=optimizer, noise=exactly(1024))
        later = bf.gradient_noise_scale(
            model,
            loader,
            optimizer=optimizer,
            noise=exactly(1024, warmup_steps=60),
        )
        assert snapshot.differences() == ()
    assert later.value > 2 * at_start.value


def test_where_there_is_no_noise_scale_the_error_says_why() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(model: nn.Module, batch: Any) -> None:
        optimizer.zero_grad()
        cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()

    loader = DataLoader(population(), batch_size=32)
    with pytest.raises(bf.BatchFinderError, match="update"):
        bf.gradient_noise_scale(model, loader, train_step=step, optimizer=optimizer)


def test_the_probe_alone_gives_what_the_whole_call_gives() -> None:
    model, loader = network(), DataLoader(population(), batch_size=16)
    alone = bf.max_batch_size(model, loader, memory_limit="96KiB", search=Search(resolution=0))
    whole = bf.find_batch_size(
        model,
        loader,
        memory_limit="96KiB",
        search=Search(resolution=0),
        base_learning_rate=0.1,
        noise=None,
        budget_seconds=60,
    )
    assert alone.max_batch_size == whole.max_batch_size
    assert alone.limited_by is bf.Limit.MEMORY
    assert alone.memory.parameter_bytes == sum(p.numel() * 4 for p in model.parameters())


class Crowded(nn.Module):
    """Memory for ``most`` samples in training."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.body, self.most = network(), most
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        self.sizes.append(len(x))
        return self.body(x)


@pytest.mark.parametrize("steps", [0, 5])
def test_a_batch_that_runs_out_of_memory_is_cut(steps: int) -> None:
    model = Crowded(20)
    loader = DataLoader(population(), batch_size=32)
    with preserved(model) as snapshot:
        found = bf.gradient_noise_scale(
            model,
            loader,
            noise=exactly(256, warmup_steps=steps),
        )
        assert snapshot.differences() == ()
    assert found.micro_batch <= 16
    assert any("micro-batches of 32; fell back to micro-batches of 16" in c for c in found.caveats)


def test_a_warm_up_that_runs_out_later_goes_on_with_smaller_micro_batches() -> None:
    """The momentum is only there from the second step on."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sizes: list[int] = []

    def step(model: nn.Module, batch: Any) -> torch.Tensor:
        if optimizer.state and len(batch[0]) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        sizes.append(len(batch[0]))
        return cross_entropy(model(batch[0]), batch[1])

    bf.gradient_noise_scale(
        model,
        DataLoader(population(), batch_size=32),
        train_step=step,
        optimizer=optimizer,
        noise=exactly(128, warmup_steps=4),
    )
    after = sizes[len(sizes) - sizes[::-1].index(32) :]
    assert after[:6] == [16] * 6


def test_where_not_even_one_sample_fits_the_error_says_so() -> None:
    loader = DataLoader(population(), batch_size=32)
    with pytest.raises(bf.BatchFinderError, match="a micro-batch of 1, which cannot be made"):
        bf.gradient_noise_scale(Crowded(0), loader, noise=MicroBatchVariance(warmup_steps=3))


class WithIdlePart(nn.Module):
    """Besides what is trained a layer that no gradient reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.idle = network(), nn.Linear(64, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def test_a_part_that_is_not_used_takes_no_gradients_and_no_optimizer_state() -> None:
    loader = DataLoader(population(), batch_size=16)
    model, frozen = WithIdlePart(), WithIdlePart()
    frozen.idle.requires_grad_(False)
    found, truth = (
        bf.max_batch_size(each, loader, memory_limit="96KiB", search=Search(resolution=0))
        for each in (model, frozen)
    )
    assert found.memory == truth.memory
    assert found.max_batch_size == truth.max_batch_size
    assert found.memory.gradient_bytes == sum(p.numel() * 4 for p in model.body.parameters())


def test_a_part_that_only_some_batches_use_is_counted_where_it_is_used() -> None:
    class Waking(WithIdlePart):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            idle = self.idle(torch.zeros(64)).sum() if len(x) >= 8 else 0.0
            return self.body(x) + idle

    loader = DataLoader(population(), batch_size=16)
    found = bf.max_batch_size(Waking(), loader, memory_limit="160KiB", search=Search(resolution=0))
    peaks = {trial.batch_size: trial.peak_bytes for trial in found.trials if trial.fits}
    state_and_gradient = 3 * 4 * (64 * 64 + 64)
    asleep = max(peak for size, peak in peaks.items() if size < 8)
    awake = min(peak for size, peak in peaks.items() if size >= 8)
    assert awake - asleep > state_and_gradient


def test_what_was_assumed_is_said_with_the_noise_scale() -> None:
    found = bf.gradient_noise_scale(
        network(),
        DataLoader(population(512), batch_size=16),
        noise=MicroBatchVariance(samples=256),
        observe=lambda event: None,
    )
    codes = {caveat.code for caveat in found.caveats}
    assert {"step.assumed_loss", "step.assumed_optimizer", "noise.at_start"} <= codes


def test_what_the_budget_cut_is_said_by_the_search_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(budget: Budget, part: float = 1.0) -> bool:
        return True

    monkeypatch.setattr(Budget, "is_spent", late)
    found = bf.max_batch_size(
        network(),
        DataLoader(population(512), batch_size=16),
        memory_limit="200KiB",
        budget_seconds=100,
        observe=lambda event: None,
    )
    cut = [caveat for caveat in found.caveats if caveat.code == "session.search"]
    assert [caveat.numbers["seconds"] for caveat in cut] == [100]
    assert found.limited_by is bf.Limit.TIME
