"""The user's loader at another size, epoch after epoch, in whole batches."""

from __future__ import annotations

from collections.abc import Generator

from batchfinder.protocols import Batch, BatchSource
from batchfinder.run.batches.workers import reading

__all__ = ["endless"]

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
