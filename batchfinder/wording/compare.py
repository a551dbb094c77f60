"""Sentences about an empirical study and its trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from batchfinder.units import format_size

__all__ = ["ENDINGS", "SENTENCES"]

ENDINGS: Mapping[str, str] = {
    "FINISHED": "used its whole budget",
    "DIVERGED": "the loss became NaN or infinite, or diverged",
    "HOPELESS": "stopped: it could no longer be the fastest to the target",
    "OUT_OF_MEMORY": "ran out of memory",
    "EARLY": "stopped: the validation loss no longer improved",
    "LOST": "its worker died",
}
"""How a training ended, by the name of its ``Ending``."""


def _trained(batch: int, rate: float, seed: int, loss: float, ending: str) -> str:
    reached = "no loss" if math.isnan(loss) else f"loss {loss:.4g}"
    return f"batch {format_size(batch)} at {rate:.3g}, seed {seed}: {reached}, {ENDINGS[ending]}"


def _machines(hosts: Sequence[str]) -> str:
    return (
        f"trained on {len(hosts)} machines ({', '.join(hosts)}): times from different machines "
        "are not comparable"
    )


def _few_seeds(count: int) -> str:
    seeds = "one seed" if count == 1 else f"{count} seeds"
    return f"{seeds}: differences between sizes may be due to chance"


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "compare.trained": _trained,
    "compare.no_time": "{count} of {of} trainings were not run: no time was left",
    "compare.lost": "{count} of {of} trainings were lost with their workers",
    "compare.machines": _machines,
    "compare.side_by_side": (
        "trainings ran in parallel: which ones stopped early depends on the order in which others "
        "ended"
    ),
    "compare.no_validation": "no validation loader was given: sizes are compared by training loss",
    "compare.no_schedule": (
        "no training followed your scheduler: the rate is constant after the warm-up; pass "
        "schedule= for one that decays"
    ),
    "compare.few_seeds": _few_seeds,
}
