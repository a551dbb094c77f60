"""How trials and trainings ended, and what is said of memory and of step times."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from batchfinder.units import format_bytes, format_seconds, format_size

__all__ = ["ENDED", "ENDINGS", "SENTENCES"]


ENDED: Mapping[str, str] = {
    "FITS": "ran and fitted",
    "OUT_OF_MEMORY": "ran out of memory",
    "AT_THE_EDGE": "ran, but the allocator went on flushing its cache: too close to the limit",
    "INDEX_LIMIT": "met an index or grid limit of a kernel, which more memory would not move",
    "KILLED": "its process was killed by the operating system",
}
"""How a trial ended, by the name of its ``Outcome``."""


def _time(size: int, seconds: float) -> str:
    return (
        f"larger batches were not tried: a step at {format_size(size)} would take "
        f"{format_seconds(seconds)}"
    )


def _fragmented(size: int, bytes: int) -> str:  # noqa: A002  # the name of the number
    return (
        f"at {format_size(size)} the allocator holds {format_bytes(bytes)} in blocks that no "
        "tensor uses (fragmentation)"
    )


def _expandable(size: int, bytes: int, with_expandable: int) -> str:  # noqa: A002  # likewise
    return (
        f"{_fragmented(size, bytes)}: about {format_size(with_expandable)} may fit with "
        "`PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`"
    )


def _lengths(size: int, longest_bytes: int, ordinary_bytes: int) -> str:
    return (
        f"the samples vary in length: trials used the {format_size(size)} longest (peak "
        f"{format_bytes(longest_bytes)}); {format_size(size)} typical samples need "
        f"{format_bytes(ordinary_bytes)}"
    )


def _disturbed(sizes: Sequence[int]) -> str:
    return (
        "another process took or freed memory on the device while batch "
        f"{', '.join(map(format_size, sizes))} was tried, so the true maximum may differ; rerun "
        "with exclusive use of the device"
    )


_PROBE: Mapping[str, str | Callable[..., str]] = {
    "probe.time": _time,
    "probe.fragmented": _fragmented,
    "probe.expandable": _expandable,
    "probe.lengths": _lengths,
    "probe.disturbed": _disturbed,
    "probe.remembered": (
        "the largest size comes from the cache ({path}) and was re-verified with one trial; memory "
        "figures also use the cached trials"
    ),
}


def _floor(sizes: Sequence[int], like: int, seconds: float) -> str:
    which = ", ".join(map(format_size, sizes))
    several = "batches of" if len(sizes) > 1 else "a batch of"
    return (
        f"{several} {which} cannot win at any noise scale: a step takes no less than "
        f"{format_seconds(seconds)}, as long as at {format_size(like)}"
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


_MEASURE: Mapping[str, str | Callable[..., str]] = {
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
        f"trained on {len(hosts)} machines ({', '.join(hosts)}): times of different machines are "
        "not comparable"
    )


def _few_seeds(count: int) -> str:
    seeds = "one seed" if count == 1 else f"{count} seeds"
    return f"{seeds}: differences between sizes may be chance"


_COMPARE: Mapping[str, str | Callable[..., str]] = {
    "compare.trained": _trained,
    "compare.no_time": "{count} of {of} trainings had no time left",
    "compare.lost": "{count} of {of} trainings were lost with their workers",
    "compare.machines": _machines,
    "compare.side_by_side": (
        "trainings ran side by side: which ones were stopped early depends on the order in which "
        "others ended"
    ),
    "compare.no_validation": "no validation loader: sizes are compared by their training loss",
    "compare.few_seeds": _few_seeds,
}


SENTENCES: Mapping[str, str | Callable[..., str]] = {**_PROBE, **_MEASURE, **_COMPARE}
