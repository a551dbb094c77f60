"""The panels: memory, throughput, noise scale, time, and the race."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from batchfinder.plot import marks
from batchfinder.results import KNEE, SAME, Candidate, NoiseScale, RaceArm
from batchfinder.units import format_bytes, format_count
from batchfinder.wording.choice import singular

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = ["MAIN_PANELS", "PANELS", "race"]


_RACE_ABOVE = 1.08  # where rates at which the loss ran away are drawn: above all others
_ROOM_IN_OCTAVES = 0.7


def race(report: ReportData, ax: Any) -> None:
    """Every arm, the rate of the rule and the one that was found."""
    found = report.race
    marks.title(ax, "Which learning rate trains fastest", "held-out loss")
    ax.set_xlabel("learning rate")
    if found is None or not found.arms:
        ax.annotate("no race was run", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    first = sorted((arm for arm in found.arms if arm.order == 1), key=_rate)
    again = [arm for arm in found.arms if arm.order > 1]
    ended = [arm.loss for arm in found.arms if not arm.ran_away]
    top = max(ended, default=1.0) + (_RACE_ABOVE - 1) * (
        max(ended, default=1.0) - min(ended, default=0)
    )
    ax.plot(*_places(first), "o-", color=marks.BLUE, markersize=7, label="first data order")
    if any(not arm.ran_away for arm in again):
        style = {"color": "white", "markeredgecolor": marks.BLUE, "linestyle": "none"}
        ax.plot(*_places(again), "s", markersize=7, label="another order", **style)
    away = [(arm.learning_rate, top) for arm in found.arms if arm.ran_away]
    if away:
        ax.plot(*marks.columns(away), "X", color=marks.ORANGE, markersize=9, label="diverged")
    ax.axvline(found.rule_rate, color=marks.GREY, linewidth=1.0, label="the rule's rate")
    if found.best_rate is not None:
        ax.axvline(
            found.learning_rate,
            color=marks.ORANGE,
            linewidth=1.6,
            linestyle="-.",
            label="for this run",
        )
    rates = [*map(_rate, found.arms), found.learning_rate]
    room = 2.0**_ROOM_IN_OCTAVES
    ax.set_xscale("log", base=2)
    ax.set_xlim(min(rates) / room, max(rates) * room)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}")
    marks.legend(ax)


def _rate(arm: RaceArm) -> float:
    return arm.learning_rate


def _places(arms: list[RaceArm]) -> tuple[list[float], list[float]]:
    return marks.columns([(arm.learning_rate, arm.loss) for arm in arms if not arm.ran_away])


_ABOVE = 1.15  # where a trial that did not fit is drawn: above the limit, its need being unknown
_SLOWEST = 6.0  # the time panel shows no slower candidates, unless one is the user's own
_TALLEST = 3.0  # an interval that ends this many times above all candidates is cut, with an arrow
_LEGEND = 0.27  # of the time panel's height, below everything drawn
_FULL = 0.1  # where no peak reaches this share of the limit, only a logarithmic axis shows both
_SIZES = (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024), ("B", 1))


def _axis(report: ReportData, *, whole: bool = False) -> str:
    """One name for the batch size, unless devices or accumulation make two of it."""
    if report.global_batch_size == report.batch_size:
        return "batch size"
    return "global batch size" if whole else "batch size per device"


def _memory(report: ReportData, ax: Any) -> None:
    seen = [trial for trial in report.trials if trial.peak_bytes is not None]
    limit = report.memory.limit_bytes
    unit, scale = next(pair for pair in _SIZES if limit >= pair[1] or pair[1] == 1)
    fitted = [(t.batch_size, t.peak_bytes / scale) for t in seen if t.fits and t.peak_bytes]
    failed = [(t.batch_size, _ABOVE * limit / scale) for t in report.trials if not t.fits]
    timed = [(m.batch_size, m.peak_bytes / scale) for m in report.measurements if m.peak_bytes]
    ax.plot(*marks.columns(timed), ".", color=marks.GREY, label="while timed", markersize=5)
    ax.plot(*marks.columns(fitted), "o", color=marks.BLUE, label="fits", markersize=7)
    if failed:
        ax.plot(*marks.columns(failed), "X", color=marks.ORANGE, label="does not fit", markersize=9)
    _memory_line(report, ax, scale, max((t.batch_size for t in seen), default=1))
    highest = max((height for _, height in [*fitted, *timed]), default=limit / scale)
    ax.axhline(limit / scale, color="black", linewidth=2)
    marks.above(ax, limit / scale, f"limit {format_bytes(limit)}")
    if highest < _FULL * limit / scale:
        marks.title(ax, "What fits", "peak memory")
        ax.set_yscale("log", base=2)
        ax.set_ylim(top=16 * limit / scale)
        ax.yaxis.set_major_formatter(lambda value, _: format_bytes(value * scale))
    else:
        marks.title(ax, "What fits", f"peak memory, {unit}")
        ax.set_ylim(0, 1.25 * limit / scale)
    marks.batch_axis(ax, [trial.batch_size for trial in report.trials], _axis(report))
    marks.lines(ax, report.batch_size, report.own_batch_size)
    marks.legend(ax, loc="center left")


def _memory_line(report: ReportData, ax: Any, scale: int, last: int) -> None:
    memory = report.memory
    if memory.per_sample_bytes <= 0:
        return
    sizes = [last ** (step / 60) for step in range(61)]
    peaks = [(memory.fixed_bytes + memory.per_sample_bytes * size) / scale for size in sizes]
    ax.plot(sizes, peaks, "--", color=marks.GREY, linewidth=1.2, label="fitted line", zorder=1)


def _throughput(report: ReportData, ax: Any) -> None:
    points = report.measurements
    middles = [each.samples_per_second for each in points]
    lows = [each.samples_per_second_low for each in points]
    highs = [each.samples_per_second_high for each in points]
    sizes = [each.batch_size for each in points]
    if points:
        marks.bars(ax, sizes, (middles, lows, highs))
        ax.set_ylim(0, 1.12 * max(highs))
        ax.yaxis.set_major_formatter(lambda value, _: format_count(value))
    marks.title(ax, "What each size costs", f"{report.unit} per second")
    marks.batch_axis(ax, sizes, _axis(report))
    places = dict(zip(sizes, middles, strict=True))
    marks.points(ax, places, report.batch_size, report.own_batch_size)
    if ax.get_legend_handles_labels()[0]:
        marks.legend(ax)


def _noise(report: ReportData, ax: Any) -> None:
    points = [(m.batch_size, m.noise_scale) for m in report.measurements if m.noise_scale]
    whole = report.noise_scale
    marks.title(ax, "What a larger batch buys", f"noise scale, {report.unit}")
    if whole is None and not points:
        ax.text(0.5, 0.5, "noise scale not measured", ha="center", transform=ax.transAxes)
        return
    sizes = [each.batch_size for each in report.measurements] or [report.batch_size]
    ax.set_yscale("log")
    marks.batch_axis(ax, [*sizes, report.global_batch_size], _axis(report, whole=True))
    _noise_points(ax, points)
    if whole is not None:
        _noise_band(ax, whole)
    ends = [min(*sizes, report.global_batch_size), max(*sizes, report.global_batch_size)]
    ax.plot(ends, ends, ":", color="black", linewidth=1.2, label="above: a larger batch helps")
    ax.yaxis.set_major_formatter(lambda value, _: format_count(value))
    ax.set_ylim(top=1.8 * ax.get_ylim()[1])  # room for the word above the points
    marks.lines(ax, report.global_batch_size, _yours(report))
    marks.legend(ax)


def _noise_points(ax: Any, points: list[tuple[int, NoiseScale]]) -> None:
    known = [(size, noise) for size, noise in points if math.isfinite(noise.value)]
    if known:
        sizes, noises = zip(*known, strict=True)
        tops = [n.high if n.is_bounded else n.value for n in noises]
        curve = ([n.value for n in noises], [n.low for n in noises], tops)
        marks.bars(ax, sizes, curve, label="at each size")
    if unbounded := [(size, noise.low) for size, noise in points if not noise.is_bounded]:
        places = marks.columns(unbounded)
        ax.plot(*places, "^", color=marks.ORANGE, markersize=9, label="at least")


def _noise_band(ax: Any, whole: NoiseScale) -> None:
    finite = whole.value if math.isfinite(whole.value) else whole.low
    top = whole.high if whole.is_bounded else 100 * finite
    ax.axhspan(whole.low, top, color=marks.GREEN, alpha=0.2, zorder=0)
    words = f"{format_count(finite)}" if whole.is_bounded else f"at least {format_count(whole.low)}"
    ax.axhline(
        finite, color=marks.GREEN, linewidth=2, label=f"critical size: {words} (whole training)"
    )


def _time(report: ReportData, ax: Any) -> None:
    priced = [each for each in report.candidates if math.isfinite(each.relative_time)]
    known = any(math.isfinite(each.relative_samples) for each in priced)
    time = "time to target" if known or not priced else f"time per {singular(report.unit)}"
    marks.title(ax, "What to use", f"{time} relative to the choice")
    marks.batch_axis(ax, [each.plan.global_batch for each in priced], _axis(report, whole=True))
    if not priced:
        ax.text(0.5, 0.5, "no candidates", ha="center", transform=ax.transAxes)
        return
    yours = _yours(report)
    times = {each.plan.global_batch: each.relative_time for each in priced}
    best, near = min(times.values()), SAME if known else KNEE  # as the choice is made
    ax.axhspan(best, (1 + near) * best, color=marks.GREEN, alpha=0.2, zorder=0)
    ax.set_yscale("log")
    ax.plot(times.keys(), times.values(), "-", color=marks.BLUE, linewidth=1.2)
    slowest = max(_SLOWEST, times.get(yours or 0, 0))
    seen = [each for each in priced if each.relative_time <= slowest]
    top = _top_of(seen)
    for each in seen:
        _candidate(ax, each, top, within=each.relative_time <= (1 + near) * best)
    samples = [each.relative_samples for each in priced]
    label = f"{report.unit} to target" if known else None
    ax.plot(times.keys(), samples, "--", color=marks.GREY, linewidth=1.4, label=label)
    joules = _joules_to_target(report, priced)
    if joules:
        ax.plot(
            joules.keys(), joules.values(), ":", color=marks.GREY, linewidth=1.8, label="energy"
        )
    least = min(best, *(each for each in samples if math.isfinite(each)), *joules.values(), 1.0)
    ax.set_ylim((0.95 * least / top**_LEGEND) ** (1 / (1 - _LEGEND)), top)
    marks.ratio_axis(ax)
    ax.plot([], [], "o-", color=marks.BLUE, label=f"time, within {near:.0%} of best")
    ax.plot([], [], "o-", color=marks.BLUE, markerfacecolor="white", label="time, slower")
    marks.points(ax, times, report.global_batch_size, yours)
    narrow = {"handlelength": 1.4, "handletextpad": 0.5, "columnspacing": 0.8, "borderaxespad": 0.2}
    marks.legend(ax, loc="lower center", ncols=2, **narrow)


def _joules_to_target(report: ReportData, priced: list[Candidate]) -> dict[int, float]:
    """Energy to the target by global batch, 1 at the choice; empty where it was not measured."""
    found = {each.plan.global_batch: each.energy_to_target for each in priced}
    own = found.get(report.global_batch_size)
    if not own:
        return {}
    return {batch: joules / own for batch, joules in found.items() if joules is not None}


def _yours(report: ReportData) -> int | None:
    """The user's own global batch."""
    return report.own_batch_size and report.own_batch_size * report.world_size


def _top_of(seen: list[Candidate]) -> float:
    """Above every interval that is shown, but for those that reach out of all proportion."""
    slowest = max((each.relative_time for each in seen), default=1.0)
    highs = [each.relative_time_high for each in seen if math.isfinite(each.relative_time_high)]
    return 1.15 * max(1.5, slowest, min(max(highs, default=1.0), _TALLEST * slowest))


def _candidate(ax: Any, each: Candidate, top: float, *, within: bool) -> None:
    size, low, high = each.plan.global_batch, each.relative_time_low, each.relative_time_high
    if math.isfinite(low) and math.isfinite(high):
        ax.plot([size, size], [low, min(high, top)], color=marks.BLUE, linewidth=1.2)
    if high > top:
        ax.plot(size, top, "^", color=marks.BLUE, markersize=7, clip_on=False)
    face = marks.BLUE if within else "white"
    ax.plot(size, each.relative_time, "o", color=marks.BLUE, markerfacecolor=face, markersize=6)


MAIN_PANELS = ("memory", "throughput", "noise", "time")
PANELS: dict[str, Callable[[Any, Any], None]] = {
    "memory": _memory,
    "throughput": _throughput,
    "noise": _noise,
    "time": _time,
    "race": race,
}
