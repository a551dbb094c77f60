"""Loaders × batches × steps as people have them: each with a hand-built twin at any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import loader_cases as cases
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

ROWS = 70
SIZES = (1, 3, 64)


@dataclass(frozen=True)
class Case:
    """``make(size)`` is how a person would write the loader; the user's own has size 4."""

    name: str
    make: Callable[[int], Any]
    step: str = "pair"
    hand: Callable[[int], Iterable[Any]] | None = None

    def by_hand(self, size: int) -> Iterable[Any]:
        return (self.hand or self.make)(size)

    def __str__(self) -> str:
        return f"{self.name} / {self.step}"


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def seed_workers(worker: int) -> None:
    torch.manual_seed(worker)


class Odd(DataLoader):
    """A loader class of the user's own: it hides its arguments and changes what it yields."""

    def __init__(self, rows: int, batch: int) -> None:
        super().__init__(cases.Rows(rows), batch_size=batch, shuffle=True)

    def __iter__(self) -> Any:
        return ((x + 0.25, y) for x, y in super().__iter__())


def rows(count: int = ROWS, kind: type[cases.Rows] = cases.Rows, **options: Any) -> Any:
    return lambda size: DataLoader(kind(count), batch_size=size, **options)


def late(**factories: Any) -> Any:
    """Options that keep state are made anew for every loader."""
    return lambda size: DataLoader(
        cases.Rows(ROWS), batch_size=size, **{name: make() for name, make in factories.items()}
    )


def batched(make: Callable[[int], Any], dataset: Any = None, **options: Any) -> Any:
    data = cases.Rows(ROWS) if dataset is None else dataset
    return lambda size: DataLoader(data, batch_sampler=make(size), **options)


def standard(size: int, drop_last: bool = False) -> BatchSampler:
    return BatchSampler(RandomSampler(range(ROWS)), size, drop_last)


TEXTS = cases.Texts(ROWS)
HALVES = ConcatDataset([cases.Rows(35), cases.Rows(35)])
WEIGHTS = [float(i % 5) for i in range(ROWS)]
MADE = list(DataLoader(cases.Rows(ROWS), batch_size=4))


def cut(size: int) -> list[Any]:
    return list(DataLoader(cases.Rows(ROWS), batch_size=size))


def stream_by_hand(size: int) -> list[Any]:
    return list(DataLoader(cases.Rows(20), batch_size=size))


CASES = [
    Case("in order", rows()),
    Case("shuffled", rows(shuffle=True)),
    Case("shuffled, drop_last", rows(shuffle=True, drop_last=True)),
    Case("shuffled by a generator", late(shuffle=lambda: True, generator=generator)),
    Case("a tensor dataset", lambda size: DataLoader(
        TensorDataset(torch.arange(140.0).reshape(70, 2), torch.arange(70) % 3), size, True)),
    Case("a subset", lambda size: DataLoader(
        Subset(cases.Rows(200), range(0, 140, 2)), size, shuffle=True)),
    Case("joined datasets", lambda size: DataLoader(HALVES, size, shuffle=True)),
    Case("a subset sampler", late(sampler=lambda: SubsetRandomSampler(range(5, 70)))),
    Case("a subset sampler with a generator", late(
        sampler=lambda: SubsetRandomSampler(range(5, 70), generator()))),
    Case("a weighted sampler", late(sampler=lambda: WeightedRandomSampler(WEIGHTS, 70))),
    Case("a sampler with replacement", late(
        sampler=lambda: RandomSampler(range(70), replacement=True, generator=generator()))),
    Case("a distributed sampler", late(
        sampler=lambda: DistributedSampler(range(70), num_replicas=2, rank=1))),
    Case("a custom sampler with epochs", late(sampler=lambda: cases.EverySecond(ROWS))),
    Case("a custom sampler that shuffles in Python", late(
        sampler=lambda: cases.PythonShuffle(ROWS))),
    Case("a plain list as sampler", late(sampler=lambda: list(range(69, -1, -1)))),
    Case("a batch sampler", batched(standard)),
    Case("a batch sampler, drop_last", batched(lambda size: standard(size, True))),
    Case("a batch sampler in order", batched(
        lambda size: BatchSampler(SequentialSampler(range(70)), size, False))),
    Case("a wrapped batch sampler", batched(lambda size: cases.Wrapped(standard(size)))),
    Case("a bucketing sampler", batched(
        lambda size: cases.Buckets(TEXTS.lengths, size), TEXTS, collate_fn=cases.pad), "text"),
    Case("a batch sampler that hides its size", batched(lambda size: cases.Hidden(ROWS, size))),
    Case("a list of index lists", batched(
        lambda size: [list(range(i, min(i + size, 70))) for i in range(0, 70, size)])),
    Case("indexed by lists", lambda size: DataLoader(
        cases.SliceRows(ROWS), sampler=standard(size), batch_size=None)),
    Case("many read at once", rows(kind=cases.ManyRows, shuffle=True)),
    Case("a stream", lambda size: DataLoader(cases.StreamRows(ROWS), batch_size=size)),
    Case("a stream, drop_last", lambda size: DataLoader(
        cases.StreamRows(ROWS), batch_size=size, drop_last=True)),
    Case("a stream that makes batches", lambda size: DataLoader(
        cases.StreamBatches(), batch_size=None), hand=stream_by_hand),
    Case("a list of batches", lambda size: MADE, hand=cut),
    Case("one worker", rows(num_workers=1)),
    Case("two workers, persistent", rows(
        shuffle=True, num_workers=2, persistent_workers=True, prefetch_factor=1,
        worker_init_fn=seed_workers)),
    Case("a worker in a fork context", rows(
        num_workers=1, multiprocessing_context="fork", timeout=20)),
    Case("a class of the user's own", lambda size: Odd(ROWS, size)),
    Case("dicts with text", rows(kind=cases.DictRows, shuffle=True), "mapping"),
    Case("dicts that the collate empties", rows(
        kind=cases.DictRows, collate_fn=cases.popping), "mapping"),
    Case("named tuples", rows(kind=cases.NamedRows, shuffle=True), "pair"),
    Case("nested", rows(kind=cases.NestedRows), "nested"),
    Case("a mapping that is no dict", rows(collate_fn=cases.as_encoding), "mapping"),
    Case("dataclasses", rows(collate_fn=cases.as_dataclass), "dataclass"),
    Case("one tensor", rows(collate_fn=cases.as_tensor), "autoencoder"),
    Case("time first", rows(collate_fn=cases.time_first), "time first"),
    Case("padded text", lambda size: DataLoader(
        TEXTS, size, shuffle=True, collate_fn=cases.pad), "text"),
    Case("in order", rows(), "own update"),
    Case("shuffled", rows(shuffle=True), "bfloat16"),
    Case("shuffled", rows(shuffle=True), "scaled float16"),
    Case("shuffled", rows(shuffle=True), "batch norm and dropout"),
    Case("shuffled", rows(shuffle=True), "own loss"),
]  # fmt: skip


def build_step(name: str) -> dict[str, Any]:
    """What ``step_from`` takes, by the kind of step."""
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    return {
        "pair": lambda: {"model": model},
        "mapping": lambda: {"model": Named()},
        "nested": lambda: {"model": model, "train_step": _nested},
        "dataclass": lambda: {
            "model": model,
            "train_step": lambda m, b: nn.functional.cross_entropy(m(b.x), b.y),
        },
        "autoencoder": lambda: {"model": nn.Linear(2, 2), "loss_fn": nn.MSELoss()},
        "time first": lambda: {
            "model": model,
            "train_step": lambda m, b: nn.functional.cross_entropy(m(b[0].T), b[1]),
        },
        "text": lambda: {"model": Bag()},
        "own update": lambda: _own_update(model),
        "bfloat16": lambda: {"model": model, "autocast": torch.bfloat16},
        "scaled float16": lambda: {
            "model": model,
            "autocast": torch.float16,
            "grad_scaler": torch.amp.GradScaler("cpu"),
        },
        "batch norm and dropout": lambda: {
            "model": nn.Sequential(nn.BatchNorm1d(2, momentum=0.1), nn.Dropout(0.5), model),
        },
        "own loss": lambda: {"model": Named("y")},
    }[name]()


class Named(nn.Module):
    """A model in the manner of transformers: named inputs, the loss among its outputs."""

    def __init__(self, target: str = "labels") -> None:
        super().__init__()
        self.inner = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = self.inner(x)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(input_ids).mean(1))


def _nested(model: nn.Module, batch: Any) -> torch.Tensor:
    one, two = batch["views"]
    return nn.functional.cross_entropy(model(one) + model(two), batch["meta"]["y"])


def _own_update(model: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(module: nn.Module, batch: Any) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(batch[0]), batch[1]).backward()
        optimizer.step()

    return {"model": model, "train_step": train, "optimizer": optimizer}
