"""Every kind of source through every public function, with small budgets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import loader_cases as cases
import pytest
import torch
from table_of_loaders import Bag
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf

ROWS = 70
TEXTS = cases.Texts(ROWS)
LIMIT = "200KiB"


@dataclass(frozen=True)
class Source:
    """A loader as people have it, and a model that can be trained on its batches."""

    name: str
    make: Callable[[], Any]
    texts: bool = False
    make_loader: Callable[[int], Any] | None = None
    counts_tokens: bool = False

    @property
    def training(self) -> bf.Training:
        torch.manual_seed(0)
        model = Bag() if self.texts else nn.Linear(2, 3)
        loss_fn = None if self.texts else nn.CrossEntropyLoss()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        return bf.Training(
            model,
            self.make(),
            loss_fn=loss_fn,
            optimizer=optimizer,
            make_loader=self.make_loader,
        )

    def __str__(self) -> str:
        return self.name


def rows(size: int = 4) -> DataLoader[Any]:
    return DataLoader(cases.Rows(ROWS), size, shuffle=True)


def texts(size: int = 4) -> DataLoader[Any]:
    return DataLoader(TEXTS, size, collate_fn=cases.pad)


def table() -> DataLoader[Any]:
    vectors = torch.arange(2.0 * ROWS).view(ROWS, 2)
    return DataLoader(TensorDataset(vectors, torch.arange(ROWS) % 3), 4)


SOURCES = [
    Source("samples by index", rows),
    Source("samples of varying length", texts, texts=True),
    Source("a table", table),
    Source(
        "a token budget",
        lambda: DataLoader(
            TEXTS,
            batch_sampler=cases.TokenBudget(TEXTS.lengths, 128),
            collate_fn=cases.pad,
        ),
        texts=True,
        counts_tokens=True,
    ),
    Source("make_loader", rows, make_loader=rows),
    Source("make_loader, varying length", texts, texts=True, make_loader=texts),
    Source("make_loader, no loader", lambda: None, make_loader=rows),
    Source("a stream", lambda: DataLoader(cases.StreamRows(ROWS), 4)),
    Source("a list of batches", lambda: list(rows())),
]
every_source = pytest.mark.parametrize("source", SOURCES, ids=str)


def quiet(event: object) -> None:
    """Say nothing."""


@every_source
def test_find_batch_size(source: Source) -> None:
    report = bf.find_batch_size(
        source.training,
        memory_limit=LIMIT,
        at_most=512 if source.counts_tokens else 24,
        noise=bf.MicroBatchVariance(samples=256, warmup_steps=8),
        budget_seconds=2,
        observe=quiet,
    )
    assert report.state_restored
    assert 1 <= report.batch_size <= report.max_batch_size
    assert report.unit == ("tokens" if source.counts_tokens else "samples")
    assert bf.Report.from_json(report.to_json()) == report
    assert str(report)


@every_source
def test_max_batch_size(source: Source) -> None:
    found = bf.max_batch_size(source.training, memory_limit=LIMIT, at_most=512, observe=quiet)
    assert found.max_batch_size >= 16
    if source.texts and source.make_loader is None:
        assert found.ordinary_peak_bytes is not None


@every_source
def test_gradient_noise_scale(source: Source) -> None:
    found = bf.gradient_noise_scale(
        source.training, noise=bf.MicroBatchVariance(samples=256), observe=quiet
    )
    assert found.value > 0
    assert found.unit == ("tokens" if source.counts_tokens else "samples")


@every_source
def test_eval_batch_size(source: Source) -> None:
    found = bf.eval_batch_size(
        source.training, memory_limit=LIMIT, at_most=512, budget_seconds=0.5, observe=quiet
    )
    assert 1 <= found.batch_size <= found.max_batch_size


@every_source
def test_assert_fits(source: Source) -> None:
    size = 128 if source.counts_tokens else 8
    assert bf.assert_fits(source.training, batch_size=size, memory=LIMIT).fits
    with pytest.raises(AssertionError, match="expected batch size"):
        bf.assert_fits(source.training, batch_size=size, memory=100)


@every_source
def test_predictions(source: Source) -> None:
    if source.counts_tokens:
        with pytest.raises(bf.CannotPredict, match="counted in samples"):
            bf.estimate_memory(source.training, batch_size=8)
        return
    assert bf.estimate_memory(source.training, batch_size=8).peak_bytes > 0
    assert bf.predict_max_batch_size(source.training, memory="8GB").batch_size > 8
