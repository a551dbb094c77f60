"""The batch size at which a peak meets a limit, where asking for a peak costs the same anywhere."""

from __future__ import annotations

from collections.abc import Callable

CLOSE = 0.002
"""The answer is this close, relatively; it is checked by a real trial anyway."""

MOST_QUESTIONS = 16


def largest_within(peak_of: Callable[[int], int], limit: int, start: int, most: int) -> int:
    """The largest size from ``start`` to ``most`` whose peak stays within ``limit``; else 0.

    The chord of a convex curve lies above it, so that its root never promises too much; every
    third question halves the bracket, for curves that are not convex.
    """
    low, low_peak = start, peak_of(start)
    if low_peak > limit:
        return 0
    high, high_peak = most + 1, None
    next_size = min(8 * start, most)
    for question in range(MOST_QUESTIONS):
        if high - low <= max(1, CLOSE * low):
            break
        size = min(max(next_size, low + 1), high - 1)
        peak = peak_of(size)
        slope = (peak - low_peak) / (size - low)
        if peak <= limit:
            low, low_peak = size, peak
        else:
            high, high_peak = size, peak
        if high_peak is not None:
            slope = (high_peak - low_peak) / (high - low)
        next_size = _next(low, high, low + (limit - low_peak) / slope if slope > 0 else None)
        if high_peak is not None and question % 3 == 2:
            next_size = (low + high) // 2
    return low


def _next(low: int, high: int, root: float | None) -> int:
    return min(64 * low if root is None else int(root), high - 1)
