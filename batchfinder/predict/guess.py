"""The first guess of a search: where to look, never what to answer."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from batchfinder.predict.assumed import UNSIZED
from batchfinder.predict.rehearsal import OutOfTime, Rehearsal, rehearsing
from batchfinder.probe import SearchSpace
from batchfinder.protocols import BatchSource, Clock, Setup, TrainStep

CLOSE = 0.002
"""Relative accuracy of the answer; the search checks it by a real trial anyway."""

MOST_QUESTIONS = 20


def largest_within(
    peak_of: Callable[[int], int], limit: int, sizes: tuple[int, int], at_rest: int = 0
) -> int:
    """About the largest size whose peak stays within ``limit``; 0 where the smallest does not.

    By chords: a rising line through two peaks, followed to the limit. Every third question after
    a peak above the limit halves what is left, for curves of which no chord tells much.

    Args:
        peak_of: the peak in bytes at a size.
        limit: in bytes.
        sizes: the smallest and the largest that may be asked about.
        at_rest: bytes held without any batch, which give a first chord.
    """
    low, high = sizes[0], sizes[1] + 1
    low_peak = peak_of(low)
    if low_peak > limit:
        return 0
    root = low * (limit - at_rest) / max(low_peak - at_rest, 1)
    for question in range(1, MOST_QUESTIONS):
        if high - low <= max(1, CLOSE * low):
            break
        size = min(max(int(root), low + 1), high - 1)
        peak = peak_of(size)
        slope = (peak - low_peak) / (size - low)
        if peak <= limit:
            low, low_peak = size, peak
            root = low + (limit - peak) / slope if slope > 0 else math.inf
            if root < low + max(1, CLOSE * low):
                break
            root = min(root, 64 * low)
        else:
            high = size
            root = low + (limit - low_peak) / slope
            root = (low + high) / 2 if question % 3 == 0 else root
    return low


_log = logging.getLogger("batchfinder")

_ANY_SIZE = SearchSpace()

MOST = 1 << 20

SECONDS = 10.0
"""A recurrent layer is followed word by word, and can take longer than the trials it would save."""

RESERVED = 0.95
"""On a device with a caching allocator, some of what is reserved is never allocated."""


def first_guess(
    setup: Setup[TrainStep],
    sizes: SearchSpace = _ANY_SIZE,
    *,
    seconds: float | None = None,
    clock: Clock = time.perf_counter,
) -> int | None:
    """The largest batch that fake tensors say fits in ``memory``; ``None`` where they cannot say.

    Never an error: whatever stands in the way of a prediction, the search does without one.
    Model, optimizer, gradient scaler and random numbers are afterwards what they were.

    Args:
        setup: the training step, where two small real batches come from, and the memory whose
            limit is to be met.
        sizes: the sizes that may be rehearsed.
        seconds: after about so long there is no guess; looked at before the operators.
            ``None`` for 10, ``math.inf`` for no end.
        clock: in seconds.
    """
    step, source, memory = setup.step, setup.source, setup.memory
    if step.device.type not in ("cpu", "cuda"):
        return None
    try:
        in_time = _deadline(SECONDS if seconds is None else seconds, clock)
        first = sizes.at_most(2)
        with rehearsing(step, source, in_time=in_time, first_size=first) as rehearsal:
            is_exact = memory.is_simulated or step.device.type == "cpu"
            budget = memory.limit_bytes() if is_exact else int(RESERVED * memory.limit_bytes())
            return _largest(rehearsal, source, budget, sizes)
    except Exception as reason:  # noqa: BLE001 - a guess must not fail for any reason at all
        _log.debug("no initial guess: %s: %s", type(reason).__name__, reason)
        return None


def _deadline(seconds: float, clock: Clock) -> Callable[[], None]:
    end = clock() + seconds

    def in_time() -> None:
        if clock() >= end:
            raise OutOfTime(f"tracing the step took longer than {seconds:.3g} s")

    return in_time


def _largest(
    rehearsal: Rehearsal, source: BatchSource, limit: int, sizes: SearchSpace
) -> int | None:
    """The size; none where a part of the memory is of unknown size, or not even two fit."""
    most = min(each for each in (MOST, source.ceiling, sizes.ceiling) if each is not None)
    first = sizes.at_most(rehearsal.shape.small_size)
    if most <= first:
        return None
    smallest = rehearsal.at(first)
    if UNSIZED.intersection(smallest.assumed):
        return None
    peaks = {smallest.batch_size: smallest.peak_bytes}

    def peak_of(size: int) -> int:
        size = sizes.at_most(size)
        if size not in peaks:
            peaks[size] = rehearsal.at(size).peak_bytes
        return peaks[size]

    found = largest_within(peak_of, limit, (first, most), smallest.at_rest_bytes)
    return sizes.at_most(found) if found else None
