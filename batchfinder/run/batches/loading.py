"""How long the user's loader takes by itself, and from which size on it is the limit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from batchfinder.protocols import Clock
from batchfinder.results import Measurement
from batchfinder.run.batches.workers import reading, workers_of

__all__ = ["data_bound", "time_loader"]


def time_loader(
    loader: Iterable[Any], *, batches: int = 8, clock: Clock = time.perf_counter
) -> float | None:
    """Seconds for one batch when nothing else runs; ``None`` for a loader of under two batches.

    The first batch, which starts the workers, does not count, and neither do as many batches as
    the workers had made in the meantime.
    """
    ahead = 1 + workers_of(loader) * int(getattr(loader, "prefetch_factor", None) or 0)
    waits: list[float] = []
    with reading(loader) as stream:
        started = clock()
        for _ in itertools.islice(stream, ahead + batches):
            now = clock()
            waits.append(now - started)
            started = clock()
    counted = waits[ahead:] or waits[1:]
    if not counted:
        return None
    # With workers, batches come in bursts of one per worker: the mean is the rate, and the median
    # of one wait would be that of a batch which was ready.
    return sum(counted) / len(counted) if workers_of(loader) else median(counted)


def data_bound(measurements: Sequence[Measurement], workers: int) -> str | None:
    """A sentence where the loader is slower than the training step; ``None`` where it is not.

    The size named is the smallest from which the loader is slower at every size measured.
    """
    timed = [each for each in measurements if each.loader_seconds is not None]
    bound: Measurement | None = None
    for each in sorted(timed, key=lambda m: m.batch_size, reverse=True):
        if each.loader_seconds is None or each.loader_seconds <= each.step_seconds:
            break
        bound = each
    if bound is None or bound.loader_seconds is None:
        return None
    share = bound.loader_seconds / max(bound.step_seconds, 1e-12)
    said = "no worker process" if workers == 0 else f"{workers} worker process"
    plural = "es" if workers > 1 else ""
    return (
        f"the loader, not the device, is the limit from {bound.batch_size} up: with {said}{plural} "
        f"it takes {share:.1f} times as long as the training step"
    )
