"""A loader's own order, read by workers that run already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from fakes import FakeClock
from torch.utils.data import DataLoader, Sampler

from batchfinder.run.batches.sharing import Followed, Sharing


class Unsized(Sampler[int]):
    """A sampler may have no length."""

    def __iter__(self) -> Iterator[int]:
        yield from range(8)


class Done:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def result(self) -> Any:
        return self.answer


class Answered:
    """A reader whose answers are there at once."""

    workers, ahead = 1, 2

    def submit(self, request: Any) -> Any:
        return Done(torch.tensor(request.indices))


class Unhurried:
    clock = FakeClock()

    def note(self, *told: Any) -> None: ...


def test_a_sampler_without_a_length_is_followed() -> None:
    loader = DataLoader(list(range(8)), batch_size=4, sampler=Unsized())
    reader: Any = Answered()
    patience: Any = Unhurried()
    read = [batch.tolist() for batch in Followed(reader, Sharing(reader), loader, patience)]
    assert read == [[0, 1, 2, 3], [4, 5, 6, 7]]
