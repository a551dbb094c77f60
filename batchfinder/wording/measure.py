"""What is said of the timings."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["SENTENCES"]

SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "measure.unreliable": (
        "timings at {count} of {of} sizes varied by more than 20% or have a single sample, so the "
        "ranking among them is unreliable; close other programs, or train with fewer threads, and "
        "run this again"
    ),
}
