"""What the panels are made of: colours, intervals, the mark of the choice, axes in powers of two.

Colours are Okabe and Ito's, told apart by the colour-blind.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from batchfinder.errors import MissingDependency
from batchfinder.units import format_size

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#595959"


def matplotlib(module: str) -> Any:
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        message = 'plots need matplotlib: pip install "torch-batchfinder[plot]"'
        raise MissingDependency(message) from error


def bars(ax: Any, sizes: Any, curve: tuple[Any, Any, Any], label: str = "") -> None:
    middles, lows, highs = curve
    below = [max(0.0, middle - low) for middle, low in zip(middles, lows, strict=True)]
    above = [max(0.0, high - middle) for middle, high in zip(middles, highs, strict=True)]
    ax.errorbar(
        sizes, middles, [below, above], fmt="o-", color=BLUE, capsize=3, linewidth=1.2, label=label
    )


def chosen(
    ax: Any,
    points: Iterable[Any],
    is_chosen: Callable[[Any], bool],
    place: Callable[[Any], tuple[float, float]],
    *,
    beside: tuple[float, float] = (-10, 4),
) -> None:
    for point in filter(is_chosen, points):
        x, y = place(point)
        ax.plot(x, y, "D", color=ORANGE, markersize=10, markeredgecolor="black", zorder=5)
        words = f"chosen: {format_size(x)}"
        label = {"ha": "right" if beside[0] < 0 else "center", "weight": "bold", "zorder": 6}
        box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}
        ax.annotate(words, (x, y), beside, textcoords="offset points", bbox=box, **label)


def chosen_line(ax: Any, size: float) -> None:
    ax.axvline(size, color=ORANGE, linewidth=1.6, linestyle="-.")
    words = f"chosen: {format_size(size)} "
    box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
    place = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "top"}
    ax.annotate(words, (size, 0.99), bbox=box, weight="bold", **place)


def above(ax: Any, height: float, words: str) -> None:
    ax.annotate(words, (0.01, height), (0, 3), ("axes fraction", "data"), "offset points")


def title(ax: Any, title: str, label: str) -> None:
    ax.set_title(title, loc="left", weight="bold")
    ax.set_ylabel(label)


def batch_axis(ax: Any, sizes: list[int], label: str) -> None:
    ax.set_xlabel(label)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(lambda value, _: format_size(value))
    if sizes:
        ax.set_xlim(min(sizes) / 1.3, max(sizes) * 1.3)


def ratio_axis(ax: Any) -> None:
    ticks = matplotlib("ticker")
    ax.yaxis.set_major_locator(ticks.LogLocator(base=10, subs=(1, 1.5, 2, 3, 5, 7)))
    ax.yaxis.set_minor_locator(ticks.NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g} ×")


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
