"""A loader is described once, and few functions ask it anything on its way to a source."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import loader_cases as cases
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from batchfinder.run import batches
from batchfinder.run.batches import rebuild_loader, source_from
from batchfinder.run.batches.describe import Kind, describe, named_size

TEXTS = cases.Texts(70)
READS = {"randomness", "tree", "counting", "cutting", "streamed", "stores", "order"}
"""What reads samples and keeps random numbers, whoever asks: no stop of the loader's."""
MOST_STOPS = 15


def rows(**options: Any) -> DataLoader[Any]:
    return DataLoader(cases.Rows(70), **options)


LOADERS: dict[str, tuple[Callable[[], Any], Kind]] = {
    "rows": (lambda: rows(batch_size=4, shuffle=True), Kind.INDEXED),
    "a table": (lambda: DataLoader(TensorDataset(torch.zeros(70, 2)), 4), Kind.INDEXED),
    "a token budget": (
        lambda: DataLoader(
            TEXTS, batch_sampler=cases.TokenBudget(TEXTS.lengths, 128), collate_fn=cases.pad
        ),
        Kind.INDEXED,
    ),
    "a data set": (lambda: cases.Rows(70), Kind.INDEXED),
    "a stream": (lambda: DataLoader(cases.StreamRows(70), 4), Kind.STREAM),
    "batches of the data set": (lambda: rows(batch_size=None), Kind.DATASET_BATCHES),
    "a list": (lambda: list(rows(batch_size=4)), Kind.BATCHES),
}


def stops(work: Callable[[], Any]) -> list[str]:
    """The functions of the package that the loader passes, in order, each once."""
    here, seen = str(Path(batches.__file__).parent), dict[str, None]()

    def note(frame: Any, event: str, _: Any) -> None:
        path, name = Path(frame.f_code.co_filename), frame.f_code.co_name
        if event != "call" or str(path.parent) != here or name.startswith(("<", "__")):
            return
        if path.stem not in READS:
            seen[f"{path.stem}.{name}"] = None

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return list(seen)


@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_is_described_once_and_soon_a_source(name: str) -> None:
    loader, kind = LOADERS[name][0](), LOADERS[name][1]
    way = stops(lambda: source_from(loader))
    assert way[:2] == ["choose.source_from", "describe.describe"]
    assert len(way) <= MOST_STOPS, way
    assert describe(loader).kind is kind
    rebuilt = stops(lambda: rebuild_loader(loader, 8))
    assert len(rebuilt) <= MOST_STOPS, rebuilt


def test_the_idiom_of_a_batch_sampler_as_sampler_is_seen() -> None:
    sampler = BatchSampler(SequentialSampler(range(70)), 4, drop_last=False)
    described = describe(rows(sampler=sampler, batch_size=None))
    assert (described.kind, described.batching) == (Kind.INDEXED, sampler)
    assert described.indexes_by_batch
    assert not describe(rows(batch_size=4)).indexes_by_batch


def test_a_data_set_by_itself_is_described_as_a_loader_of_ours() -> None:
    described = describe(TEXTS)
    assert described.is_bare
    assert described.dataset is TEXTS
    assert not describe(rows()).is_bare


def test_a_wrapper_names_the_size_of_the_loader_inside_it() -> None:
    class Wrapper:
        def __init__(self, inner: DataLoader[Any]) -> None:
            self.loader = inner

        def __iter__(self) -> Any:
            return iter(self.loader)

    budget = cases.TokenBudget(TEXTS.lengths, 128)
    own = DataLoader(TEXTS, batch_sampler=budget, collate_fn=cases.pad)
    assert named_size(Wrapper(rows(batch_size=4))) == 4
    assert named_size(Wrapper(own)) == len(next(iter(budget)))
