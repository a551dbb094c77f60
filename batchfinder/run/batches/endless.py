"""The loader at another size, epoch after epoch; batches read once that are used again."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator

import torch
from torch.nn.utils.rnn import PackedSequence

from batchfinder.protocols import Batch, BatchSource
from batchfinder.run.batches.workers import reading
from batchfinder.run.tree import bytes_in, leaves

__all__ = ["Kept", "endless"]


MOST_SKIPPED = 100
"""Batches below the size, one after the other, after which a loader is taken to have no others."""


def endless(source: BatchSource, size: int) -> Generator[Batch]:
    """Batches of ``source.rebuild(size)`` without end, those of fewer than ``size`` samples out.

    An epoch's last batch may be of a single sample, at which batch norm fails: training at this
    size is not to be judged by it. Where an epoch has no whole batch, ordinary samples stand in.
    Under a token budget a batch seldom fills it, and none is left out.
    """
    while True:
        found = skipped = 0
        with reading(source.rebuild(size)) as batches:
            for batch in batches:
                if source.unit == "samples" and source.count(batch) < size:
                    skipped += 1
                    if skipped == MOST_SKIPPED:
                        break
                    continue
                found, skipped, handed = found + 1, 0, [batch]
                del batch  # else it stays in memory while the caller's next one, of another, runs
                yield handed.pop()
        if not found:
            ceiling = source.ceiling
            yield source.ordinary(size if ceiling is None else min(size, ceiling))


MOST_BYTES = 256 * 2**20


class Kept:
    """The batches of ``endless``, kept in host memory as they come, so that they can come again.

    Each is handed on as a copy of what is kept, since a step may change its batch. Beyond
    ``most_bytes``, where a batch cannot be copied, and where the user's collate function has put
    one on a device, they are read again.
    """

    def __init__(self, source: BatchSource, size: int, *, most_bytes: int = MOST_BYTES) -> None:
        self._source, self._size, self._room = source, size, most_bytes
        self._feed = endless(source, size)
        self._kept: list[Batch] | None = []

    def onward(self) -> Iterator[Batch]:
        """Batches not handed on before."""
        for batch in self._feed:
            self._keep(batch)
            handed = [batch]
            del batch  # else it stays in memory while the caller's next one, of another, runs
            yield handed.pop()

    def again(self) -> Iterator[Batch]:
        """From the first batch on, then what comes after those that were kept."""
        if self._kept is None:
            self.close()
            self._feed = endless(self._source, self._size)
        else:
            yield from map(copy.deepcopy, list(self._kept))
        yield from self.onward()

    def _keep(self, batch: Batch) -> None:
        if self._kept is None:
            return
        self._room = self._room - bytes_in(batch) if _is_on_host(batch) else -1
        try:
            kept = copy.deepcopy(batch) if self._room >= 0 else None
        except Exception:  # noqa: BLE001 - a batch of the user's may refuse in any way
            kept = None
        if kept is None:
            self._kept = None
        else:
            self._kept.append(kept)

    def close(self) -> None:
        """End the reading."""
        self._feed.close()


def _is_on_host(batch: Batch) -> bool:
    found = (leaf for _, leaf in leaves(batch) if isinstance(leaf, torch.Tensor | PackedSequence))
    return all(each.data.device.type == "cpu" for each in found)
