"""Evaluation: larger batches than training, in evaluation mode, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchfinder import NothingFits, max_batch_size, memory_limit
from batchfinder.evaluation import Evaluation, eval_batch_size
from batchfinder.run.step import EvaluationStep
from batchfinder.training import Search

LIMIT = "2MiB"


def evaluate(*arguments: Any, **options: Any) -> Evaluation:
    return eval_batch_size(*arguments, **{"memory_limit": LIMIT, "budget_seconds": 0.5, **options})


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(16, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 3))


def loader(rows: int = 4000, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(rows, 16), torch.arange(rows) % 3), 32, **options)


@pytest.fixture(scope="module")
def found() -> Evaluation:
    return evaluate(network(), loader())


def test_the_size_was_run_and_fits(found: Evaluation) -> None:
    assert found.batch_size in {each.batch_size for each in found.measurements}
    assert found.batch_size <= found.max_batch_size
    largest = next(t for t in found.trials if t.batch_size == found.max_batch_size)
    assert largest.peak_bytes is not None
    assert largest.peak_bytes <= found.limit_bytes


def test_it_is_the_smallest_near_the_highest_throughput(found: Evaluation) -> None:
    """The lower ends of the intervals count, so that one lucky timing decides nothing."""
    rates = {each.batch_size: each.samples_per_second_low for each in found.measurements}
    best = max(rates.values())
    assert rates[found.batch_size] >= 0.95 * best
    assert all(rate < 0.95 * best for size, rate in rates.items() if size < found.batch_size)


@pytest.mark.slow
def test_without_gradients_more_fits(found: Evaluation) -> None:
    training = max_batch_size(network(), loader(), memory_limit=LIMIT)
    assert found.max_batch_size > 1.2 * training.max_batch_size


def test_the_maximum_is_the_true_one(found: Evaluation) -> None:
    """By hand: one more step of the resolution does not fit."""
    exact = evaluate(network(), loader(), search=Search(resolution=0))
    model = network().eval()

    def forward(size: int) -> None:
        with torch.no_grad(), memory_limit(LIMIT):
            model(torch.randn(size, 16))

    forward(int(0.97 * exact.max_batch_size))
    with pytest.raises(torch.OutOfMemoryError):
        forward(int(1.05 * exact.max_batch_size))
    assert exact.max_batch_size / 1.03 <= found.max_batch_size <= exact.max_batch_size


def test_nothing_is_left_behind() -> None:
    model, data = network(), loader(shuffle=True)
    model[1].eval()
    loss = nn.functional.cross_entropy(model(torch.randn(8, 16)), torch.arange(8) % 3)
    loss.backward()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    modes = [module.training for module in model.modules()]
    numbers = torch.get_rng_state()
    evaluate(model, data, at_most=64)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    kept = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(map(torch.equal, kept, gradients))
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), numbers)


@pytest.mark.slow
def test_the_training_answer_is_the_same_before_and_after() -> None:
    model, data = network(), loader()
    before = max_batch_size(model, data, memory_limit=LIMIT, search=Search(resolution=0.1))
    evaluate(model, data, at_most=256)
    after = max_batch_size(model, data, memory_limit=LIMIT, search=Search(resolution=0.1))
    assert [t.batch_size for t in after.trials] == [t.batch_size for t in before.trials]


def test_modes_and_gradients_inside() -> None:
    seen = []

    def step(model: nn.Module, batch: Any) -> None:
        seen.append((model.training, torch.is_grad_enabled(), len(batch[0])))

    evaluate(network(), loader(70), eval_step=step)
    assert {(training, grad) for training, grad, _ in seen} == {(False, False)}
    assert max(size for _, _, size in seen) == 70


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"multiple_of": 8}, lambda n: n % 8 == 0),
        ({"powers_of_two": True}, lambda n: n & (n - 1) == 0),
        ({"at_most": 50}, lambda n: n <= 50),
    ],
)
def test_only_sizes_that_are_allowed_are_run(options: Any, allowed: Any) -> None:
    found = evaluate(network(), loader(2000), **options)
    assert all(allowed(trial.batch_size) for trial in found.trials)
    assert allowed(found.batch_size)
    assert all(allowed(each.batch_size) for each in found.measurements)


def test_an_enclosing_limit_is_taken() -> None:
    model, data = network(), loader()
    with memory_limit("1MiB"):
        inside = evaluate(model, data, memory_limit=None, search=Search(resolution=0.1))
    assert inside.limit_bytes == 1024**2


def test_nothing_fits_is_said() -> None:
    with pytest.raises(NothingFits, match="not even a batch of 1 fits for evaluation"):
        evaluate(nn.Linear(4000, 10), TensorDataset(torch.randn(9, 4000)), memory_limit=9000)


def test_the_target_is_left_out_of_the_call() -> None:
    class Named(nn.Module):
        def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
            assert labels is None
            return x

    step = EvaluationStep(Named())
    step.forward_backward({"x": torch.ones(2), "labels": torch.ones(2)})
    step.forward_backward((torch.ones(2), torch.ones(2)))
