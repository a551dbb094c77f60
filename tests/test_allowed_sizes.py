"""Only sizes that the caller allows reach the step, in every stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))


def loader(batch_size: int = 32) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(600, 16, generator=generator)
    labels = (rows @ torch.randn(16, 3, generator=generator)).argmax(1)
    return DataLoader(TensorDataset(rows, labels), batch_size=batch_size, shuffle=True)


class Recorded:
    """A step that notes the size of every batch, and fails at sizes that are not allowed."""

    def __init__(self, allowed: Any) -> None:
        self.allowed = allowed
        self.sizes: set[int] = set()

    def __call__(self, model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        size = len(batch[0])
        self.sizes.add(size)
        if not self.allowed(size):
            raise ValueError(f"a batch of {size} is not allowed")
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


def quiet(event: object) -> None:
    """Say nothing."""


LIMITS = [
    ({"multiple_of": 4}, lambda size: size % 4 == 0),
    ({"multiple_of": 32}, lambda size: size % 32 == 0),
    ({"at_least": 8}, lambda size: size >= 8),
    ({"at_least": 5, "multiple_of": 4}, lambda size: size >= 8 and size % 4 == 0),
    ({"powers_of_two": True, "at_least": 3}, lambda size: size >= 4 and size & (size - 1) == 0),
]
IDS = [" ".join(limits) for limits, _ in LIMITS]


@pytest.mark.parametrize(("limits", "allowed"), LIMITS, ids=IDS)
def test_the_whole_call(limits: dict[str, Any], allowed: Any) -> None:
    step, model = Recorded(allowed), network()
    report = bf.find_batch_size(
        model,
        loader(),
        train_step=step,
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        memory_limit="2MiB",
        noise=bf.MicroBatchVariance(samples=256, warmup_steps=8),
        budget_seconds=2,
        observe=quiet,
        **limits,
    )
    assert allowed(report.batch_size)
    assert step.sizes
    assert all(map(allowed, step.sizes)), sorted(step.sizes)


@pytest.mark.parametrize(("limits", "allowed"), LIMITS, ids=IDS)
def test_the_search_alone_and_a_range_test(limits: dict[str, Any], allowed: Any) -> None:
    step = Recorded(allowed)
    bf.max_batch_size(
        network(), loader(), train_step=step, memory_limit="1MiB", observe=quiet, **limits
    )
    assert step.sizes
    assert all(map(allowed, step.sizes)), sorted(step.sizes)


def test_a_floor_below_the_ceiling_alone_is_accepted() -> None:
    with pytest.raises(bf.InvalidArgument, match="lower at_least or multiple_of"):
        bf.max_batch_size(network(), loader(), at_most=8, at_least=16, observe=quiet)


@pytest.mark.parametrize("limits", [{"at_least": 8}, {"multiple_of": 12}])
def test_evaluation(limits: dict[str, int]) -> None:
    sizes: set[int] = set()

    def step(model: nn.Module, batch: list[torch.Tensor]) -> None:
        sizes.add(len(batch[0]))
        model(batch[0])

    bf.eval_batch_size(
        network(),
        loader(),
        eval_step=step,
        memory_limit="1MiB",
        budget_seconds=1,
        observe=quiet,
        **limits,
    )
    assert min(sizes) >= limits.get("at_least", 1)
    assert all(size % limits.get("multiple_of", 1) == 0 for size in sizes)


def test_the_noise_scale_of_one_micro_batch() -> None:
    step = Recorded(lambda size: size % 24 == 0)
    found = bf.gradient_noise_scale(
        network(),
        loader(),
        train_step=step,
        micro_batch=24,
        noise=bf.MicroBatchVariance(samples=240, warmup_steps=2),
        observe=quiet,
    )
    assert found.micro_batch == 24
    assert all(size % 24 == 0 for size in step.sizes), sorted(step.sizes)


@pytest.mark.parametrize("least", [4, 32])
def test_an_error_below_the_users_own_size_names_the_way_out(least: int) -> None:
    step = Recorded(lambda size: size % least == 0)
    with pytest.raises(ValueError, match="is not allowed") as caught:
        bf.max_batch_size(network(), loader(), train_step=step, memory_limit="1MiB", observe=quiet)
    assert any(
        "a step at your batch size, 32, runs, but one at" in note and "multiple_of=" in note
        for note in caught.value.__notes__
    )


@pytest.mark.parametrize("most", [32, 100])
def test_an_error_above_the_users_own_size_names_the_way_out(most: int) -> None:
    step = Recorded(lambda size: size <= most and (most == 100 or most % size == 0))
    with pytest.raises(ValueError, match="is not allowed") as caught:
        bf.max_batch_size(network(), loader(), train_step=step, memory_limit="1MiB", observe=quiet)
    assert any(
        "a step at 32 runs, but one at" in note and "powers_of_two=" in note
        for note in caught.value.__notes__
    )


def test_an_error_at_every_size_is_the_users_own_alone() -> None:
    step = Recorded(lambda size: False)
    with pytest.raises(ValueError, match="is not allowed") as caught:
        bf.max_batch_size(network(), loader(), train_step=step, memory_limit="1MiB", observe=quiet)
    assert not any("multiple_of=" in note for note in caught.value.__notes__)


def test_a_noise_scale_that_wants_more_samples_names_the_micro_batch() -> None:
    for least, named in ((20, True), (1000, False)):
        step = Recorded(lambda size, least=least: size >= least)
        with pytest.raises(ValueError, match="is not allowed") as caught:
            bf.gradient_noise_scale(
                network(),
                loader(),
                train_step=step,
                noise=bf.MicroBatchVariance(samples=64),
                observe=quiet,
            )
        notes = caught.value.__notes__
        assert any("a step at the loader's batch size, 32, runs" in note for note in notes) is named


def test_a_loss_without_a_graph_below_the_users_own_size_names_the_way_out() -> None:
    def pairs(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        output = model(batch[0])
        return output.sum().detach() if len(output) < 2 else output.var(0).mean()

    with pytest.raises(bf.NothingToTrain) as caught:
        bf.max_batch_size(network(), loader(), train_step=pairs, memory_limit="1MiB", observe=quiet)
    assert any("a step at your batch size, 32, runs" in note for note in caught.value.__notes__)
