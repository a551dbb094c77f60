"""What is said of the timings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from batchfinder.units import format_seconds, format_size
from batchfinder.wording.probe import ENDED

__all__ = ["SENTENCES"]


def _floor(sizes: Sequence[int], like: int, seconds: float) -> str:
    which = ", ".join(map(format_size, sizes))
    several, were = ("batches of", "were") if len(sizes) > 1 else ("a batch of", "was")
    return (
        f"{several} {which} {were} left out: when first timed, the shortest step took "
        f"{format_seconds(seconds)}, about as long as at {format_size(like)}"
    )


def _slow(size: int, seconds: float, own: int) -> str:
    but = f" (except your own {format_size(own)})" if own > size else ""
    return (
        f"there was too little time to measure batches of {format_size(size)} and more{but}: a "
        f"step would take {format_seconds(seconds)}"
    )


def _late(sizes: Sequence[int]) -> str:
    said = ", ".join(map(format_size, sizes))
    return f"there was no time to time these batches: {said}"


def _settled(seconds: float, of: int) -> str:
    return f"timed {of} sizes for {format_seconds(seconds)}: the ranking is settled"


def _stopped(seconds: float, left: int, of: int) -> str:
    return (
        f"timed {of} sizes for {format_seconds(seconds)}, all the time there was: {left} of them "
        "still vary"
    )


def _waits(seconds: float, of: int) -> str:
    return (
        f"timed {of} sizes for {format_seconds(seconds)} and no longer: at your batch size "
        "training waits for the loader"
    )


def _ran_out(size: int, outcome: str) -> str:
    return (
        f"batch size {size:,} {ENDED[outcome]} while it was timed, twice, though the search had "
        "found that it fits: it is not among the sizes to choose from"
    )


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "measure.unreliable": (
        "timings at {count} of {of} sizes varied by more than 20% or have a single sample, so the "
        "ranking among them is unreliable; close other programs, or train with fewer threads, and "
        "run this again"
    ),
    "measure.floor": _floor,
    "measure.slow": _slow,
    "measure.late": _late,
    "measure.settled": _settled,
    "measure.stopped": _stopped,
    "measure.waits": _waits,
    "measure.ran_out": _ran_out,
}
