"""How long the user's loader takes by itself."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from batchfinder.protocols import BatchSource, Clock
from batchfinder.run.batches.workers import reading, workers_of

__all__ = ["loading_seconds", "scaled", "time_loader"]

LEAST_SECONDS, MOST_TIMES = 0.2, 32
"""With workers bursts are counted for so long, at most so many times the batches wanted: within
one burst the pause between two may not fall."""


def time_loader(
    loader: Iterable[Any],
    *,
    batches: int = 8,
    clock: Clock = time.perf_counter,
    budget_seconds: float = math.inf,
) -> float | None:
    """Seconds for one batch when nothing else runs; ``None`` for a loader of under two batches.

    The first batch, which starts the workers, does not count, and neither do as many batches as
    the workers had made in the meantime. With workers batches come in bursts, one of each worker:
    as many count as make whole bursts, at least ``batches``, and 0.2 s of them. Ends once
    ``budget_seconds`` have passed; where no burst is whole by then, the mean over all that came
    stands in. Without workers the first batch counts where it took that long by itself.
    """
    burst = max(1, workers_of(loader))
    ahead = 1 + workers_of(loader) * int(getattr(loader, "prefetch_factor", None) or 0)
    wanted = burst * math.ceil(batches / burst)
    least = LEAST_SECONDS if workers_of(loader) else 0.0
    waits: list[float] = []
    with reading(loader) as stream:
        began = started = clock()
        for _ in itertools.islice(stream, ahead + MOST_TIMES * wanted):
            now = clock()
            waits.append(now - started)
            started = clock()
            bursts_are_whole = len(waits) >= ahead + wanted and (len(waits) - ahead) % burst == 0
            if bursts_are_whole and sum(waits[ahead:]) >= least:
                break
            if started - began > budget_seconds and (len(waits) > 1 or not workers_of(loader)):
                break
    if len(waits) < 2 and not (waits and waits[0] > budget_seconds):
        return None
    counted = waits[ahead:] if len(waits) >= ahead + burst else waits[1:] or waits
    whole = len(counted) - len(counted) % burst
    counted = counted[len(counted) - whole :] or waits
    # The mean is the rate; the median of one wait would be that of a batch which was ready.
    return sum(counted) / len(counted) if workers_of(loader) else median(counted)


def loading_seconds(
    source: BatchSource,
    sizes: Sequence[int],
    *,
    batches: int = 6,
    budget_seconds: float = math.inf,
    clock: Clock = time.perf_counter,
) -> dict[int, float]:
    """Seconds per batch that the user's loader takes when nothing else runs, for every size.

    The size nearest to the user's own is timed first, then the others from the smallest up while
    there is time. A loader's time is its samples' time, so that the rest, and sizes of which the
    dataset fills only one batch, are given the time per sample of the next smaller size timed; so
    are those below the user's own of which the loader makes no batches. Where one batch takes
    longer than there is time, by what reading took before, that stands in.
    """
    own = source.base_batch_size
    nearest = min(sizes, key=lambda size: abs(size - (own or 0)), default=0)
    deadline = clock() + budget_seconds
    timed: dict[int, float] = {}
    per_sample = 0.0
    for size in sorted(set(sizes), key=lambda size: (size != nearest, size)):
        left = deadline - clock()
        if timed and (batches + 1) * size * per_sample > left:
            continue
        if (expected := source.expected_seconds(size)) > left:
            timed[size] = expected
            per_sample = expected / size
            continue
        loader = source.rebuild(size)
        try:
            seconds = time_loader(loader, batches=batches, clock=clock, budget_seconds=left)
        except Exception:
            if own is None or size >= own:
                raise
            continue  # a collate function that leaves out broken samples may be left with none
        if seconds is not None:
            timed[size] = seconds
            per_sample = seconds / size
    return {size: scaled(size, timed) for size in sizes if timed}


def scaled(size: int, timed: Mapping[int, float]) -> float:
    """By the time per sample of the nearest size timed, the smaller one where there is one."""
    if size in timed:
        return timed[size]
    below = [each for each in timed if each < size]
    nearest = max(below) if below else min(timed)
    return size * timed[nearest] / nearest
