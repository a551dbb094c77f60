"""Sentences about timings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from batchfinder.units import counted, format_seconds, format_size
from batchfinder.wording.probe import ENDED

__all__ = ["SENTENCES"]


def _unreliable(count: int, of: int) -> str:
    steadier = "close other programs, or train with fewer threads, and rerun"
    if of == 1:
        return f"the timing varied by more than 20% or has a single sample; {steadier}"
    return (
        f"timings at {count:,} of {of:,} sizes varied by more than 20% or have a single sample, so "
        f"the ranking among them is unreliable; {steadier}"
    )


def _floor(sizes: Sequence[int], like: int, seconds: float) -> str:
    which = ", ".join(map(format_size, sizes))
    several, were = ("batch sizes", "were") if len(sizes) > 1 else ("batch size", "was")
    return (
        f"{several} {which} {were} skipped: in the first timing the shortest step took "
        f"{format_seconds(seconds)}, about as long as at {format_size(like)}"
    )


def _slow(size: int, seconds: float, own: int) -> str:
    if size == 1 and own > size:
        return f"no time was left to measure batch sizes other than your own {format_size(own)}"
    but = f" (except your own {format_size(own)})" if own > size else ""
    return (
        f"there was too little time to measure batch sizes of {format_size(size)} and more{but}: "
        f"a step would take {format_seconds(seconds)}"
    )


def _late(sizes: Sequence[int]) -> str:
    said = ", ".join(map(format_size, sizes))
    return f"there was no time to measure these batch sizes: {said}"


def _settled(seconds: float, of: int) -> str:
    return f"timed {counted(of, 'size')} for {format_seconds(seconds)}: the ranking is settled"


def _stopped(seconds: float, left: int, of: int) -> str:
    return (
        f"timed {counted(of, 'size')} for {format_seconds(seconds)}, the time available: {left} "
        f"still {'varies' if left == 1 else 'vary'}"
    )


def _waits(seconds: float, of: int) -> str:
    return (
        f"timed {counted(of, 'size')} for {format_seconds(seconds)}, then stopped: at your batch "
        "size "
        "training waits for the loader"
    )


def _ran_out(size: int, outcome: str) -> str:
    return (
        f"batch size {size:,} {ENDED[outcome]} twice during timing, although it fit during the "
        "search: it is excluded from the choice"
    )


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "measure.unreliable": _unreliable,
    "measure.floor": _floor,
    "measure.slow": _slow,
    "measure.late": _late,
    "measure.settled": _settled,
    "measure.stopped": _stopped,
    "measure.waits": _waits,
    "measure.ran_out": _ran_out,
}
