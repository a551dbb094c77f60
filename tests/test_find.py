"""The main job, end to end: the answer was run, the numbers agree, nothing is left behind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import batchfinder as bf
from batchfinder.noise import MicroBatchVariance
from batchfinder.run.state import preserved
from batchfinder.training import Search

QUICK: dict[str, Any] = {
    "noise": MicroBatchVariance(warmup_steps=12),
    "memory_limit": "24MiB",
    "budget_seconds": 5,
}


def data(rows: int = 600) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(rows, 8, generator=generator)
    targets = (inputs[:, 0] + 0.5 * torch.randn(rows, generator=generator) > 0).long()
    return TensorDataset(inputs, targets)


def loader(rows: int = 600, **arguments: Any) -> DataLoader[Any]:
    return DataLoader(data(rows), **{"batch_size": 16, "shuffle": True, **arguments})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 2)
    )


@pytest.fixture(scope="module")
def report() -> bf.Report:
    model = network()
    return bf.find_batch_size(
        model,
        loader(),
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        observe=lambda event: None,
        **QUICK,
    )


def test_the_recommended_micro_batch_was_run(report: bf.Report) -> None:
    ran = {trial.batch_size for trial in report.trials if trial.fits}
    ran |= {measurement.batch_size for measurement in report.measurements}
    assert report.batch_size in ran
    assert report.batch_size <= report.max_batch_size
    assert report.max_batch_size in {trial.batch_size for trial in report.trials if trial.fits}


def test_the_plan_multiplies_out(report: bf.Report) -> None:
    product = report.batch_size * report.accumulation_steps * report.world_size
    assert report.global_batch_size == product
    (chosen,) = [candidate for candidate in report.candidates if candidate.chosen]
    assert chosen.plan.global_batch == report.global_batch_size
    assert chosen.relative_time == pytest.approx(1.0)
    assert isinstance(report.batch_size, int)


def test_the_state_is_proven_and_the_caveats_are_sentences(report: bf.Report) -> None:
    assert report.state_restored
    assert all(len(caveat.split()) > 3 for caveat in report.caveats)
    assert isinstance(report.limited_by, bf.Limit)


def test_the_report_survives_json(report: bf.Report) -> None:
    text = report.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert bf.Report.from_json(text) == report


def test_make_loader_gives_the_users_own_loader_at_the_recommended_size(report: bf.Report) -> None:
    rebuilt = report.make_loader(loader(drop_last=True))
    assert rebuilt.batch_size == report.batch_size
    assert rebuilt.drop_last


class Tripwire(nn.Module):
    """Raises out-of-memory above so many rows, and remembers the sizes that it saw."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 2)
        self.most = most
        self.seen: set[int] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sizes.add(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("simulated")
        return self.layer(x)


sizes: set[int] = set()


@pytest.mark.parametrize("most", [1, 2, 3, 47, 257, 1000])
def test_the_exact_maximum_with_few_failures(most: int) -> None:
    sizes.clear()
    found = bf.max_batch_size(
        Tripwire(most), loader(rows=5000), search=Search(resolution=0), memory_limit="4GiB"
    )
    assert found.max_batch_size == most
    assert most in sizes
    assert sum(not trial.fits for trial in found.trials) <= 4
    assert len({trial.batch_size for trial in found.trials}) == len(found.trials)


@pytest.mark.parametrize("ceiling", [1, 5, 16, 100])
def test_never_above_the_users_ceiling(ceiling: int) -> None:
    sizes.clear()
    report = bf.find_batch_size(
        Tripwire(10**6), loader(), at_most=ceiling, base_learning_rate=0.1, **QUICK
    )
    assert max(sizes) == ceiling
    assert report.max_batch_size == ceiling
    assert report.batch_size <= ceiling


@pytest.mark.parametrize("drop_last", [False, True])
def test_the_dataset_is_a_ceiling(drop_last: bool) -> None:
    sizes.clear()
    found = bf.max_batch_size(
        Tripwire(10**6), loader(rows=50, drop_last=drop_last), memory_limit="4GiB"
    )
    assert (found.max_batch_size, max(sizes)) == (50, 50)
    assert found.limited_by is bf.Limit.DATASET


class Dicts(Dataset[dict[str, torch.Tensor]]):
    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"inputs": torch.full((8,), float(index) / 100), "labels": torch.tensor(index % 2)}


class ReturnsItsLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.body(inputs)
        return {"logits": logits, "loss": nn.functional.cross_entropy(logits, labels)}


def by_hand(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def cross_entropy_of(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output, target)


WAYS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], dict[str, Any]]] = {
    "inferred": (network, loader, {}),
    "loss_fn": (network, loader, {"loss_fn": cross_entropy_of}),
    "loss module": (network, loader, {"loss_fn": nn.CrossEntropyLoss()}),
    "train_step": (network, loader, {"train_step": by_hand}),
    "dict batches, own loss": (ReturnsItsLoss, lambda: DataLoader(Dicts(), batch_size=16), {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_say_the_loss(way: str) -> None:
    build, build_loader, arguments = WAYS[way]
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with preserved(model, optimizer) as snapshot:
        report = bf.find_batch_size(
            model, build_loader(), optimizer=optimizer, **arguments, **QUICK
        )
        assert snapshot.differences() == ()
    assert report.state_restored
    assert report.batch_size >= 1
    assert report.learning_rate is not None
    assert math.isfinite(report.learning_rate)
    assert any("cross-entropy" in caveat for caveat in report.caveats) == (way == "inferred")


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=3e-3),
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=3e-3, fused=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


@pytest.mark.slow
@pytest.mark.parametrize("mid_training", [False, True], ids=["fresh", "mid-training"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_after_the_call_is_bit_equal(name: str, mid_training: bool) -> None:
    def train(call: bool) -> tuple[list[float], torch.Tensor]:
        torch.manual_seed(3)
        model, batches = network(), loader()
        optimizer = OPTIMIZERS[name](model.parameters())
        losses = []
        for epoch in range(3):
            if call and epoch == (1 if mid_training else 0):
                found = bf.find_batch_size(
                    model, batches, loss_fn=cross_entropy_of, optimizer=optimizer, **QUICK
                )
                assert found.state_restored
            for x, y in batches:
                optimizer.zero_grad()
                loss = cross_entropy_of(model(x), y)
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        return losses, torch.cat([p.detach().flatten() for p in model.parameters()])

    without, weights_without = train(call=False)
    after, weights_after = train(call=True)
    assert without == after
    assert torch.equal(weights_without, weights_after)


def test_a_simulated_limit_around_the_call_is_the_limit() -> None:
    model, batches = network(), loader(rows=10**5)
    with bf.memory_limit("24MiB"):
        around = bf.max_batch_size(model, batches, search=Search(resolution=0))
    inside = bf.max_batch_size(model, batches, search=Search(resolution=0), memory_limit="24MiB")
    assert around.max_batch_size == inside.max_batch_size
    assert around.limited_by is bf.Limit.MEMORY


def test_real_memory_without_a_limit() -> None:
    model = network()
    found = bf.max_batch_size(model, loader(rows=64))
    assert found.max_batch_size == 64
    assert found.memory.limit_bytes > 2**26


def test_no_optimizer_and_no_rate_says_what_it_assumed() -> None:
    report = bf.find_batch_size(network(), loader(), **QUICK)
    said = " ".join(report.caveats)
    assert "AdamW" in said
    assert "range test" in said


def test_without_the_noise_scale() -> None:
    report = bf.find_batch_size(
        network(), loader(), base_learning_rate=0.01, **QUICK | {"noise": None}
    )
    assert report.noise_scale is None
    assert report.batch_size >= 1


@pytest.mark.parametrize("returns_the_loss", [False, True])
def test_a_step_that_updates_by_itself(returns_the_loss: bool) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(model: nn.Module, batch: Any) -> torch.Tensor | None:
        optimizer.zero_grad()
        loss = cross_entropy_of(model(batch[0]), batch[1])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss if returns_the_loss else None

    before = [p.detach().clone() for p in model.parameters()]
    report = bf.find_batch_size(model, loader(), train_step=step, optimizer=optimizer, **QUICK)
    assert report.noise_scale is None
    assert any("noise scale cannot be measured" in caveat for caveat in report.caveats)
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
