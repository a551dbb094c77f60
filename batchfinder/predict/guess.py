"""The first guess of a search: where to look, never what to answer."""

from __future__ import annotations

import logging
from typing import Any

from batchfinder.predict.assumed import UNSIZED
from batchfinder.predict.rehearsal import Rehearsal, rehearsing
from batchfinder.predict.root import largest_within
from batchfinder.protocols import BatchSource, MemoryBackend

_log = logging.getLogger("batchfinder")

MOST = 1 << 20

RESERVED = 0.95
"""On a device with a caching allocator, some of what is reserved is never allocated."""


def first_guess(
    step: Any, source: BatchSource, memory: MemoryBackend, ceiling: int | None = None
) -> int | None:
    """The largest batch that fake tensors say fits in ``memory``; ``None`` where they cannot say.

    Nothing above ``ceiling`` is rehearsed. Never an error: whatever stands in the way of a
    prediction, the search does without one. Model, optimizer, gradient scaler and random
    numbers are afterwards what they were.
    """
    if step.device.type not in ("cpu", "cuda") or not callable(getattr(step, "modules", None)):
        return None
    try:
        with rehearsing(step, source) as rehearsal:
            return _largest(rehearsal, source, _budget(step, memory), ceiling)
    except Exception as reason:  # noqa: BLE001 - a guess must not fail for any reason at all
        _log.debug("no first guess: %s: %s", type(reason).__name__, reason)
        return None


def _budget(step: Any, memory: MemoryBackend) -> int:
    if memory.is_simulated or step.device.type == "cpu":
        return memory.limit_bytes()
    return int(RESERVED * memory.limit_bytes())


def _largest(
    rehearsal: Rehearsal, source: BatchSource, limit: int, ceiling: int | None
) -> int | None:
    """The size; none where a part of the memory is of unknown size, or not even two fit."""
    most = min(each for each in (MOST, source.ceiling, ceiling) if each is not None)
    if most <= rehearsal.shape.small_size:
        return None
    smallest = rehearsal.at(rehearsal.shape.small_size)
    if UNSIZED.intersection(smallest.assumed):
        return None
    peaks = {smallest.batch_size: smallest.peak_bytes}
    found = largest_within(
        lambda size: peaks.get(size) or rehearsal.at(size).peak_bytes,
        limit,
        (smallest.batch_size, most),
        smallest.at_rest_bytes,
    )
    return found or None
