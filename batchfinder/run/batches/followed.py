"""The user's loader in its own order, read by workers that run already."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from batchfinder.protocols import Batch
from batchfinder.run.batches.requests import Reader
from batchfinder.run.batches.sharing import Coming, Sharing
from batchfinder.run.batches.stores import Patience

__all__ = ["Followed"]


class Followed:
    """The batches of a loader in its own order, read by workers that run already."""

    prefetch_factor = 1

    def __init__(
        self, reader: Reader, sharing: Sharing, loader: DataLoader[Any], patience: Patience
    ) -> None:
        self.num_workers = reader.workers
        self._reader, self._sharing = reader, sharing
        self._loader, self._patience = loader, patience

    def __iter__(self) -> Iterator[Batch]:
        # As the loader does, which draws a seed for its workers before its sampler draws
        torch.empty((), dtype=torch.int64).random_(generator=self._loader.generator)
        sampler = self._loader.batch_sampler  # not by its truth, which asks for its length
        numbered = enumerate(() if sampler is None else sampler)
        flying: deque[Coming] = deque()
        try:
            while True:
                for number, indices in itertools.islice(numbered, self._wanted(len(flying))):
                    drawn = [(each, hash((number, turn))) for turn, each in enumerate(indices)]
                    flying.append(self._sharing.begin(drawn))
                if not flying:
                    return
                coming = flying.popleft()
                answers = self._sharing.wait(coming)
                self._patience.note(coming.size, sum(each.size for each in flying))
                batch = self._sharing.joined(coming, answers)
                if batch is not None:
                    yield batch
        finally:
            for coming in flying:
                coming.drop()

    def _wanted(self, flying: int) -> int:
        return max(0, max(1, self._reader.ahead) - flying)
