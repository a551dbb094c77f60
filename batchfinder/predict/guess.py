"""The first guess of a search: where to look, never what to answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from batchfinder.predict.assumed import UNSIZED
from batchfinder.predict.rehearsal import OutOfTime, Rehearsal, rehearsing
from batchfinder.predict.root import largest_within
from batchfinder.protocols import BatchSource, Clock, MemoryBackend

_log = logging.getLogger("batchfinder")

MOST = 1 << 20

SECONDS = 10.0
"""A recurrent layer is followed word by word, and can take longer than the trials it would save."""

RESERVED = 0.95
"""On a device with a caching allocator, some of what is reserved is never allocated."""


def first_guess(
    step: Any,
    source: BatchSource,
    memory: MemoryBackend,
    ceiling: int | None = None,
    *,
    seconds: float | None = None,
    clock: Clock = time.perf_counter,
) -> int | None:
    """The largest batch that fake tensors say fits in ``memory``; ``None`` where they cannot say.

    Never an error: whatever stands in the way of a prediction, the search does without one.
    Model, optimizer, gradient scaler and random numbers are afterwards what they were.

    Args:
        step: a training step that also lists its ``modules()`` and ``optimizers()``.
        source: where two small real batches come from.
        memory: whose limit is to be met.
        ceiling: nothing above it is rehearsed.
        seconds: after about so long there is no guess; looked at before the operators.
            ``None`` for 10, ``math.inf`` for no end.
        clock: in seconds.
    """
    if step.device.type not in ("cpu", "cuda") or not callable(getattr(step, "modules", None)):
        return None
    try:
        in_time = _deadline(SECONDS if seconds is None else seconds, clock)
        with rehearsing(step, source, in_time=in_time) as rehearsal:
            return _largest(rehearsal, source, _budget(step, memory), ceiling)
    except Exception as reason:  # noqa: BLE001 - a guess must not fail for any reason at all
        _log.debug("no first guess: %s: %s", type(reason).__name__, reason)
        return None


def _deadline(seconds: float, clock: Clock) -> Callable[[], None]:
    end = clock() + seconds

    def in_time() -> None:
        if clock() >= end:
            raise OutOfTime(f"the rehearsal took longer than {seconds:.3g} s")

    return in_time


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
