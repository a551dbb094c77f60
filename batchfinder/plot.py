"""One picture that tells it all, in four panels.

Colours are Okabe and Ito's, told apart by the colour-blind; every difference is also one of shape,
line or word, so that the picture reads in grey. Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from batchfinder.errors import InvalidArgument, MissingDependency
from batchfinder.results import Candidate, Measurement, NoiseScale
from batchfinder.units import format_bytes, format_count, format_size

if TYPE_CHECKING:
    from batchfinder.report import Report

__all__ = ["PANELS", "figure", "panel", "plot", "require", "svg"]

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#595959"
_INCHES = (10.0, 7.2)
_WITHIN = 1.10
_ABOVE = 1.15  # where a trial that did not fit is drawn: above the limit, its need being unknown
_SLOWEST = 6.0  # the time panel ends here; what is slower is of no interest
_SIZES = (("TiB", 1024**4), ("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024), ("B", 1))


def figure(report: Report) -> Any:
    """A new matplotlib ``Figure`` with all four panels, known to no window and no notebook.

    Raises:
        MissingDependency: where matplotlib is not installed.
    """
    made = _matplotlib("figure").Figure(figsize=_INCHES, layout="constrained")
    _draw_all(report, made.subplots(2, 2))
    return made


def svg(report: Report) -> str:
    """The figure as SVG text, the same for the same report: no date, no random identifiers.

    Raises:
        MissingDependency: where matplotlib is not installed.
    """
    drawn, buffer = figure(report), io.StringIO()
    with _matplotlib("pyplot").rc_context({"svg.hashsalt": "batchfinder"}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def plot(report: Report) -> Any:
    """The four panels in a pyplot figure; its axes, shape ``(2, 2)``. Nothing is shown."""
    _, axes = _matplotlib("pyplot").subplots(2, 2, figsize=_INCHES, layout="constrained")
    _draw_all(report, axes)
    return axes


def panel(report: Report, name: str, ax: Any) -> Any:
    """Draw one panel ("memory", "throughput", "noise", "time") into ``ax`` and return it.

    Raises:
        InvalidArgument: where there is no such panel.
    """
    if name not in PANELS:
        known = ", ".join(f'"{each}"' for each in PANELS)
        raise InvalidArgument(f"expected one of {known}; found {name!r}")
    PANELS[name](report, ax)
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def require() -> None:
    """Make sure that matplotlib can be imported, before anything long is run.

    Raises:
        MissingDependency: where it is not installed.
    """
    _matplotlib("figure")


def _matplotlib(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        message = 'plots need matplotlib: pip install "torch-batchfinder[plot]"'
        raise MissingDependency(message) from error


def _draw_all(report: Report, axes: Any) -> None:
    for name, ax in zip(PANELS, axes.flat, strict=True):
        panel(report, name, ax)
    axes.flat[0].figure.suptitle(_headline(report), x=0.01, ha="left", weight="bold")


def _headline(report: Report) -> str:
    rate = "" if report.learning_rate is None else f", learning rate {report.learning_rate:.3g}"
    binds = report.limited_by.value.split(":")[0]
    return f"Batch size {report.recommendation.plan}{rate}; limited by {binds}"


def _memory(report: Report, ax: Any) -> None:
    seen = [trial for trial in report.trials if trial.peak_bytes is not None]
    limit = report.memory.limit_bytes
    unit, scale = next(pair for pair in _SIZES if limit >= pair[1] or pair[1] == 1)
    fitted = [(t.batch_size, t.peak_bytes / scale) for t in seen if t.fits and t.peak_bytes]
    failed = [(t.batch_size, _ABOVE * limit / scale) for t in report.trials if not t.fits]
    ax.plot(*_columns(fitted), "o", color=_BLUE, label="ran and fitted", markersize=7)
    if failed:
        ax.plot(*_columns(failed), "X", color=_ORANGE, label="did not fit", markersize=9)
    _memory_line(report, ax, scale, max((t.batch_size for t in seen), default=1))
    ax.axhline(limit / scale, color="black", linewidth=2)
    _above(ax, limit / scale, f"limit {format_bytes(limit)}")
    ax.set_ylim(0, 1.25 * limit / scale)
    _title(ax, "What fits", f"peak memory, {unit}")
    _batch_axis(ax, [trial.batch_size for trial in report.trials], "batch size per device")
    _chosen_line(ax, report.batch_size)
    ax.legend(loc="center left", frameon=False)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _memory_line(report: Report, ax: Any, scale: int, last: int) -> None:
    memory = report.memory
    if memory.per_sample_bytes <= 0:
        return
    sizes = [last ** (step / 60) for step in range(61)]
    peaks = [(memory.fixed_bytes + memory.per_sample_bytes * size) / scale for size in sizes]
    ax.plot(sizes, peaks, "--", color=_GREY, linewidth=1.2, label="fitted line", zorder=1)


def _throughput(report: Report, ax: Any) -> None:
    points = report.measurements
    middles = [each.samples_per_second for each in points]
    lows = [each.samples_per_second_low for each in points]
    highs = [each.samples_per_second_high for each in points]
    sizes = [each.batch_size for each in points]
    if points:
        _bars(ax, sizes, (middles, lows, highs))
        ax.set_ylim(0, 1.12 * max(highs))
        ax.yaxis.set_major_formatter(lambda value, _: format_count(value))
    _title(ax, "What each size costs", f"{report.unit} per second")
    _batch_axis(ax, sizes, "batch size per device")
    _chosen(ax, points, lambda each: each.batch_size == report.batch_size, _rate_of)


def _rate_of(each: Measurement) -> tuple[float, float]:
    return each.batch_size, each.samples_per_second


def _noise(report: Report, ax: Any) -> None:
    points = [(m.batch_size, m.noise_scale) for m in report.measurements if m.noise_scale]
    whole = report.noise_scale
    _title(ax, "What a larger batch buys", f"noise scale, {report.unit}")
    if whole is None and not points:
        ax.text(0.5, 0.5, "noise scale not measured", ha="center", transform=ax.transAxes)
        return
    sizes = [each.batch_size for each in report.measurements] or [report.batch_size]
    ax.set_yscale("log")
    _batch_axis(ax, [*sizes, report.global_batch_size], "batch size")
    _noise_points(ax, points)
    if whole is not None:
        _noise_band(ax, whole)
    _useful_line(ax, [*sizes, report.global_batch_size])
    ax.yaxis.set_major_formatter(lambda value, _: format_count(value))
    _chosen_line(ax, report.global_batch_size)
    ax.legend(loc="best", frameon=False)


def _noise_points(ax: Any, points: list[tuple[int, NoiseScale]]) -> None:
    known = [(size, noise) for size, noise in points if math.isfinite(noise.value)]
    if known:
        sizes, noises = zip(*known, strict=True)
        tops = [n.high if n.is_bounded else n.value for n in noises]
        curve = ([n.value for n in noises], [n.low for n in noises], tops)
        _bars(ax, sizes, curve, label="at each size")
    for size, noise in points:
        if not noise.is_bounded:
            ax.plot(size, noise.low, "^", color=_ORANGE, markersize=9)


def _noise_band(ax: Any, whole: NoiseScale) -> None:
    finite = whole.value if math.isfinite(whole.value) else whole.low
    top = whole.high if whole.is_bounded else 100 * finite
    ax.axhspan(whole.low, top, color=_GREEN, alpha=0.2, zorder=0)
    words = f"{format_count(finite)}" if whole.is_bounded else f"at least {format_count(whole.low)}"
    ax.axhline(finite, color=_GREEN, linewidth=2, label=f"whole training: {words}")


def _useful_line(ax: Any, sizes: Iterable[int]) -> None:
    ends = [min(sizes), max(sizes)]
    ax.plot(ends, ends, ":", color="black", linewidth=1.2, label="batch = noise scale")


def _time(report: Report, ax: Any) -> None:
    priced = [each for each in report.candidates if math.isfinite(each.relative_time)]
    _title(ax, "What to use", "time to target, 1 = the choice")
    _batch_axis(ax, [each.plan.global_batch for each in priced], "global batch size")
    if not priced:
        ax.text(0.5, 0.5, "no candidates", ha="center", transform=ax.transAxes)
        return
    best = min(each.relative_time for each in priced)
    ax.axhspan(best, _WITHIN * best, color=_GREEN, alpha=0.2, zorder=0)
    sizes = [each.plan.global_batch for each in priced]
    ax.plot(sizes, [each.relative_time for each in priced], "-", color=_BLUE, linewidth=1.2)
    for each in priced:
        _candidate(ax, each, each.relative_time <= _WITHIN * best)
    samples = [each.relative_samples for each in priced]
    ax.plot(sizes, samples, "--", color=_GREY, linewidth=1.4, label=f"{report.unit} to target")
    ax.set_yscale("log")
    slowest = max(each.relative_time for each in priced)
    least = min(best, *(each for each in samples if math.isfinite(each)), 1.0)
    ax.set_ylim(0.85 * least, 1.15 * max(1.5, min(slowest, _SLOWEST)))
    _ratio_axis(ax)
    ax.plot([], [], "o-", color=_BLUE, label="time, within 10 % of the least")
    ax.plot([], [], "o-", color=_BLUE, markerfacecolor="white", label="time, beyond that")
    _chosen(ax, priced, lambda each: each.chosen, _time_of)
    ax.legend(loc="best", frameon=False)


def _time_of(each: Candidate) -> tuple[float, float]:
    return each.plan.global_batch, each.relative_time


def _candidate(ax: Any, each: Candidate, within: bool) -> None:
    size, low, high = each.plan.global_batch, each.relative_time_low, each.relative_time_high
    if math.isfinite(low) and math.isfinite(high):
        ax.plot([size, size], [low, high], color=_BLUE, linewidth=1.2)
    face = _BLUE if within else "white"
    ax.plot(size, each.relative_time, "o", color=_BLUE, markerfacecolor=face, markersize=6)


def _bars(ax: Any, sizes: Any, curve: tuple[Any, Any, Any], label: str = "") -> None:
    middles, lows, highs = curve
    below = [max(0.0, middle - low) for middle, low in zip(middles, lows, strict=True)]
    above = [max(0.0, high - middle) for middle, high in zip(middles, highs, strict=True)]
    ax.errorbar(
        sizes, middles, [below, above], fmt="o-", color=_BLUE, capsize=3, linewidth=1.2, label=label
    )


def _chosen(
    ax: Any,
    points: Iterable[Any],
    is_chosen: Callable[[Any], bool],
    place: Callable[[Any], tuple[float, float]],
) -> None:
    for point in filter(is_chosen, points):
        x, y = place(point)
        ax.plot(x, y, "D", color=_ORANGE, markersize=10, markeredgecolor="black", zorder=5)
        words = f"chosen: {format_size(x)}"
        ax.annotate(words, (x, y), (0, 12), textcoords="offset points", ha="center", weight="bold")


def _chosen_line(ax: Any, size: float) -> None:
    ax.axvline(size, color=_ORANGE, linewidth=1.6, linestyle="-.")
    words = f"chosen: {format_size(size)} "
    ax.annotate(words, (size, 0.03), xycoords=("data", "axes fraction"), ha="right", weight="bold")


def _above(ax: Any, height: float, words: str) -> None:
    ax.annotate(words, (0.01, height), (0, 3), ("axes fraction", "data"), "offset points")


def _title(ax: Any, title: str, label: str) -> None:
    ax.set_title(title, loc="left", weight="bold")
    ax.set_ylabel(label)


def _batch_axis(ax: Any, sizes: list[int], label: str) -> None:
    ax.set_xlabel(label)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda value, _: format_size(value))
    if sizes:
        ax.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)


def _ratio_axis(ax: Any) -> None:
    ticks = _matplotlib("ticker")
    ax.yaxis.set_major_locator(ticks.LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7)))
    ax.yaxis.set_minor_locator(ticks.NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g} ×")


PANELS: dict[str, Callable[[Any, Any], None]] = {
    "memory": _memory,
    "throughput": _throughput,
    "noise": _noise,
    "time": _time,
}
