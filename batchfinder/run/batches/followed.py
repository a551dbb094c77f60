"""The user's loader in its own order, read by workers that run already."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from batchfinder.protocols import Batch
from batchfinder.run.batches.requests import Reader, Request, Ticket, Want
from batchfinder.run.batches.stores import Patience

__all__ = ["Followed"]


class Followed:
    """The batches of a loader in its own order, read by workers that run already."""

    prefetch_factor = 1

    def __init__(self, reader: Reader, loader: DataLoader[Any], patience: Patience) -> None:
        self.num_workers = reader.workers
        self._reader, self._loader, self._patience = reader, loader, patience

    def __iter__(self) -> Iterator[Batch]:
        # As the loader does, which draws a seed for its workers before its sampler draws
        torch.empty((), dtype=torch.int64).random_(generator=self._loader.generator)
        sampler = self._loader.batch_sampler  # not by its truth, which asks for its length
        coming = enumerate(() if sampler is None else sampler)
        flying: deque[tuple[int, Ticket]] = deque()
        try:
            while True:
                for number, indices in itertools.islice(coming, self._wanted(len(flying))):
                    seeds = tuple(hash((number, turn)) for turn in range(len(indices)))
                    ticket = self._reader.submit(Request(Want.BATCH, tuple(indices), seeds))
                    flying.append((len(indices), ticket))
                if not flying:
                    return
                size, ticket = flying.popleft()
                batch = ticket.result()
                self._patience.note(size, sum(size for size, _ in flying))
                if batch is not None:
                    yield batch
        finally:
            for _, ticket in flying:
                ticket.drop()

    def _wanted(self, flying: int) -> int:
        return max(0, max(1, self._reader.ahead) - flying)
