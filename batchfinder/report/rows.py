"""The figures of a report as tables of text. No width is decided here, no markup written."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchfinder.results import Candidate, Measurement, NoiseScale, Role, Trial
from batchfinder.table import Row, Table
from batchfinder.units import format_bytes, format_count, format_rate, format_seconds, format_size

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = [
    "candidate_table",
    "format_interval",
    "format_milliseconds",
    "format_noise",
    "legend",
    "measurement_table",
    "trial_table",
]

_ABSENT = "-"
_UNSTABLE, _ONCE = "~", "1x"
_MARKS = {
    _UNSTABLE: "unstable: the 90% interval is wider than a fifth of the figure",
    _ONCE: "timed once: no interval is known",
}
MOST_ROWS = 8


def measurement_table(report: ReportData, *, wide: bool, every: bool = False) -> Table:
    """One row per micro-batch that matters, or ``every`` one; ``wide`` writes intervals out.

    Columns, in the order in which people read: batch, predicted time to the same loss over that
    of the user's own batch (of the choice, where theirs is not among them), throughput, time
    per step, peak memory, its share of the limit, noise scale with its 90% interval, note.
    """
    reference, times = _relative_times(report)
    header = (
        "batch",
        reference,
        f"{report.unit}/s",
        "ms/step",
        "peak mem",
        "% of limit" if wide else "% limit",
        "noise scale (low-high)" if wide else "noise scale",
        "note",
    )
    shown = report.measurements if every else rows_that_matter(report)
    rows = tuple(
        Row(_cells(report, row, times, wide=wide), row.batch_size == report.batch_size)
        for row in shown
    )
    table = Table(header, rows).without_empty_columns()
    return table if wide else table.without("noise scale")


def rows_that_matter(report: ReportData) -> tuple[Measurement, ...]:
    """The measurements with a note, and those next to the choice, up to ``MOST_ROWS``."""
    measured = report.measurements
    if len(measured) <= MOST_ROWS:
        return measured
    noted = {i for i, row in enumerate(measured) if _notes(report, row)}
    sizes = [row.batch_size for row in measured]
    middle = sizes.index(report.batch_size) if report.batch_size in sizes else len(sizes) - 1
    for i in sorted(range(len(measured)), key=lambda i: abs(i - middle)):
        if len(noted) < MOST_ROWS:
            noted.add(i)
    return tuple(measured[i] for i in sorted(noted))


def _relative_times(report: ReportData) -> tuple[str, dict[int, float]]:
    """What times are relative to, and the times by micro-batch."""
    plain = [c for c in report.candidates if c.plan.accumulation_steps == 1]
    yours = [c for c in report.candidates if Role.YOURS in c.roles]
    reference = yours[0].relative_time if yours else 1.0
    times = {c.plan.micro_batch: c.relative_time / reference for c in plain}
    return "time vs yours" if yours else "time", times


def _cells(
    report: ReportData, measurement: Measurement, times: dict[int, float], *, wide: bool
) -> tuple[str, ...]:
    peak, limit = measurement.peak_bytes, report.memory.limit_bytes
    marks = (mark for mark in _marks(measurement) if mark in _used(report))
    return (
        format_size(measurement.batch_size),
        _price(times.get(measurement.batch_size, math.nan)),
        format_interval(measurement) if wide else _with_spread(measurement),
        format_milliseconds(measurement.step_seconds),
        _ABSENT if peak is None else format_bytes(peak),
        _ABSENT if peak is None or not limit else f"{100 * peak / limit:.0f}%",
        _ABSENT if measurement.noise_scale is None else format_noise(measurement.noise_scale),
        " ".join((*marks, ", ".join(_notes(report, measurement)))).strip(),
    )


def _marks(measurement: Measurement) -> list[str]:
    """What holds of many rows at once, as marks that ``legend`` explains."""
    marks = ((_UNSTABLE, measurement.unstable), (_ONCE, measurement.repeats == 1))
    return [mark for mark, holds in marks if holds]


def _used(report: ReportData) -> set[str]:
    """Marks that tell rows apart: one that most rows would bear is a caveat instead."""
    marks = [mark for measurement in report.measurements for mark in _marks(measurement)]
    return {mark for mark in marks if 2 * marks.count(mark) <= len(report.measurements)}


def legend(report: ReportData, *, every: bool = False) -> str:
    """What the marks in the table of measurements mean, and what is left out of it."""
    rows = report.measurements if every else rows_that_matter(report)
    used = _used(report) & {mark for row in rows for mark in _marks(row)}
    parts = [f"{mark} {words}" for mark, words in _MARKS.items() if mark in used]
    left = len(report.measurements) - len(rows)
    if left:
        parts.append(f"{left} more size{'s' * (left != 1)} in report.measurements")
    return "; ".join(parts)


def _notes(report: ReportData, measurement: Measurement) -> list[str]:
    """What a reader should know of one row, in words ("chosen", "yours", "largest")."""
    size, steps = measurement.batch_size, report.accumulation_steps
    loader = measurement.loader_seconds
    waits = loader is not None and loader > measurement.step_seconds
    waits &= report.recommendation.loading is None  # else the headline says it
    priced = {c.plan.micro_batch for c in report.candidates if c.plan.accumulation_steps == 1}
    remarks = (
        ("chosen" + (f" (x {steps} accumulated)" if steps > 1 else ""), size == report.batch_size),
        (Role.YOURS.value, size == report.own_batch_size),
        ("largest", size == report.max_batch_size),
        (Role.HIGHEST_THROUGHPUT.value, size == _highest_throughput(report)),
        ("waits for data", waits),
        ("excluded", bool(priced) and size not in priced),  # by headroom or another limit
    )
    return [remark for remark, holds in remarks if holds]


def _highest_throughput(report: ReportData) -> int | None:
    """The micro-batch of the most samples per second, where figures and prices agree on it.

    Prices rest on times that were evened out between sizes. Where the scatter is such that another
    size leads there, the figures cannot tell which is first, and no row claims to be.
    """
    measured = max(report.measurements, key=lambda each: each.samples_per_second).batch_size
    priced = [e.plan for e in report.candidates if Role.HIGHEST_THROUGHPUT in e.roles]
    agreed = not priced or any(plan.micro_batch == measured for plan in priced)
    return measured if agreed else None


def _with_spread(measurement: Measurement) -> str:
    rate = measurement.samples_per_second
    width = measurement.samples_per_second_high - measurement.samples_per_second_low
    spread = f" ±{max(50 * width / rate, 1):.0f}%" if width and rate else ""
    return f"{format_count(rate)}{spread}"


def format_interval(measurement: Measurement) -> str:
    """``"12,300 (11,900-12,700)"``: the throughput with its 90% interval."""
    low, high = measurement.samples_per_second_low, measurement.samples_per_second_high
    if low == high:
        return format_count(measurement.samples_per_second)
    return _range(measurement.samples_per_second, low, high)


def format_noise(noise: NoiseScale) -> str:
    """``"41 (30-60)"``; where |G|² is indistinguishable from zero, ``"above 30"``."""
    if not math.isfinite(noise.value):
        return f"above {format_count(noise.low)}"
    return _range(noise.value, noise.low, noise.high)


def _range(value: float, low: float, high: float) -> str:
    return f"{format_count(value)} ({format_count(low)}-{format_count(high)})"


def format_milliseconds(seconds: float) -> str:
    """Milliseconds without the unit, three significant digits: ``"5.21"``, ``"1,230"``."""
    return format_count(1000 * seconds)


def candidate_table(report: ReportData) -> Table:
    """One row per global batch that could be recommended, priced against the recommended one.

    "as" is batch size × accumulation steps × devices, where there is more than the first. "time"
    and "samples" are what it takes to reach the same loss, as multiples of the choice's.
    """
    header = ("global", "as", "time", report.unit, "learning rate", "peak mem", "note")
    rows = tuple(Row(_candidate_cells(each), each.chosen) for each in report.candidates)
    return Table(header, rows).without_empty_columns()


def _candidate_cells(candidate: Candidate) -> tuple[str, ...]:
    peak, plan = candidate.peak_bytes, candidate.plan
    factors = (plan.micro_batch, plan.accumulation_steps, plan.world_size)
    return (
        format_size(plan.global_batch),
        " x ".join(map(str, factors)) if plan.global_batch > plan.micro_batch else "",
        _price(candidate.relative_time),
        _price(candidate.relative_samples),
        _ABSENT if candidate.learning_rate is None else format_rate(candidate.learning_rate),
        _ABSENT if peak is None else format_bytes(peak),
        ", ".join(["chosen"] * candidate.chosen + [role.value for role in candidate.roles]),
    )


def _price(ratio: float) -> str:
    return f"{ratio:.2f}x" if math.isfinite(ratio) else _ABSENT


def trial_table(report: ReportData) -> Table:
    """One row per memory trial, in the order in which they were run."""
    header = ("batch", "peak mem", "time", "outcome")
    return Table(header, tuple(Row(_trial_cells(each)) for each in report.trials))


def _trial_cells(trial: Trial) -> tuple[str, ...]:
    peak = _ABSENT if trial.peak_bytes is None else format_bytes(trial.peak_bytes)
    outcome = [trial.outcome.words, trial.note, "disturbed by another process" * trial.disturbed]
    return (
        format_size(trial.batch_size),
        peak,
        format_seconds(trial.seconds),
        "; ".join(part for part in outcome if part),
    )
