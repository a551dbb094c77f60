"""The batch size at which a peak meets a limit, where asking for a peak costs the same anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable

CLOSE = 0.002
"""The answer is this close, relatively; the search checks it by a real trial anyway."""

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
