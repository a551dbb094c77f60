"""The panel of the race: held-out loss against the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchfinder.plot import marks
from batchfinder.results import RaceArm

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = ["race"]

_ABOVE = 1.08  # where rates at which the loss ran away are drawn: above all others
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
    top = max(ended, default=1.0) + (_ABOVE - 1) * (max(ended, default=1.0) - min(ended, default=0))
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
