"""What the panels are made of: colours, intervals, the mark of the choice, axes in powers of two.

Colours are Okabe and Ito's, told apart by the colour-blind.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any

from batchfinder.errors import MissingDependency
from batchfinder.units import format_size

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#595959"
_FULL_INCHES = 3.4  # from this width of a panel on its legend has its full size
_ROOM = 0.3  # of a panel's width: what words beside a line take


def matplotlib(module: str) -> Any:
    try:
        return importlib.import_module(f"matplotlib.{module}")
    except ImportError as error:
        message = "plots need matplotlib: pip install matplotlib"
        raise MissingDependency(message) from error


def bars(ax: Any, sizes: Any, curve: tuple[Any, Any, Any], label: str = "") -> None:
    middles, lows, highs = curve
    below = [max(0.0, middle - low) for middle, low in zip(middles, lows, strict=True)]
    above = [max(0.0, high - middle) for middle, high in zip(middles, highs, strict=True)]
    ax.errorbar(
        sizes, middles, [below, above], fmt="o-", color=BLUE, capsize=3, linewidth=1.2, label=label
    )


def points(ax: Any, places: dict[int, float], chosen: int, yours: int | None) -> None:
    """The choice and the user's own size among ``places`` (size to height), named in the legend."""
    looks = {"markeredgecolor": "black", "linestyle": "none", "zorder": 5}
    if yours in places and yours != chosen:
        words = f"yours: {format_size(yours)}"
        ax.plot(yours, places[yours], "s", color="white", markersize=8, label=words, **looks)
    if chosen in places:
        words = f"{_chosen_words(chosen, yours)}: {format_size(chosen)}"
        ax.plot(chosen, places[chosen], "D", color=ORANGE, markersize=10, label=words, **looks)


def lines(ax: Any, chosen: int, yours: int | None) -> None:
    """The choice and the user's own size as upright lines, each with its words at the top.

    The words of the smaller size are to the left of its line, those of the larger to the right,
    where the panel has room there.
    """
    least, most = ax.get_xlim()
    other = chosen
    if yours is not None and yours != chosen and least < yours < most:
        other = yours
        ax.axvline(yours, color=GREY, linewidth=1.0)
        _words_at(ax, (yours, 0.91), f"yours: {format_size(yours)}", left=yours < chosen)
    ax.axvline(chosen, color=ORANGE, linewidth=1.6, linestyle="-.")
    words = f"{_chosen_words(chosen, yours)}: {format_size(chosen)}"
    _words_at(ax, (chosen, 0.99), words, left=chosen <= other, weight="bold")


def _chosen_words(chosen: int, yours: int | None) -> str:
    return "chosen, yours" if yours == chosen else "chosen"


def _words_at(
    ax: Any, place: tuple[float, float], words: str, *, left: bool, weight: str = "normal"
) -> None:
    """Beside the line of a size, on the other side where there is no room."""
    least, most = map(math.log, ax.get_xlim())
    share = (math.log(place[0]) - least) / (most - least)
    left = share > 1 - _ROOM if not left else share > _ROOM
    box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
    style = {"xycoords": ("data", "axes fraction"), "ha": "right" if left else "left"}
    words = f"{words} " if left else f" {words}"
    ax.annotate(words, place, va="top", bbox=box, weight=weight, zorder=6, **style)


def above(ax: Any, height: float, words: str) -> None:
    ax.annotate(words, (0.01, height), (0, 3), ("axes fraction", "data"), "offset points")


def legend(ax: Any, loc: str = "best", **style: Any) -> None:
    """A legend that lets the panel show through, in smaller type where the panel is narrow."""
    inches = ax.get_window_extent().width / ax.figure.dpi
    size = max(6.0, min(9.0, 9.0 * inches / _FULL_INCHES))
    ax.legend(loc=loc, framealpha=0.7, edgecolor="none", fontsize=size, **style)


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
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
