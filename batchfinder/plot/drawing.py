"""The whole figure, a single panel, and the figure as SVG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from batchfinder.errors import InvalidArgument
from batchfinder.plot.marks import matplotlib
from batchfinder.plot.panels import MAIN_PANELS, PANELS

if TYPE_CHECKING:
    from batchfinder.report.data import ReportData

__all__ = ["check_panel", "figure", "panel", "plot", "require", "svg", "svg_of"]

_INCHES = (10.0, 7.2)


def figure(report: ReportData) -> Any:
    """A new matplotlib ``Figure`` with all panels, known to no window and no notebook.

    Raises:
        MissingDependency: where matplotlib is not installed.
    """
    made = matplotlib("figure").Figure(figsize=_inches(report), layout="constrained")
    _draw_all(report, made.subplots(2, _columns(report)))
    return made


def svg(report: ReportData) -> str:
    """The figure as SVG text, the same for the same report: no date, no random identifiers.

    Raises:
        MissingDependency: where matplotlib is not installed.
    """
    return svg_of(figure(report))


def svg_of(drawn: Any) -> str:
    """Any figure as SVG text, the same for the same drawing."""
    buffer = io.StringIO()
    with matplotlib("pyplot").rc_context({"svg.hashsalt": "batchfinder"}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def plot(report: ReportData) -> Any:
    """The panels in a pyplot figure; its axes, shape ``(2, 2)``, or ``(2, 3)`` with a race.

    Nothing is shown.
    """
    _, axes = matplotlib("pyplot").subplots(
        2, _columns(report), figsize=_inches(report), layout="constrained"
    )
    _draw_all(report, axes)
    return axes


def panel(report: ReportData, name: str, ax: Any = None) -> Any:
    """Draw one panel ("memory", "throughput", "noise", "time", "race") into ``ax``; that axes.

    Left out, ``ax`` is that of a new pyplot figure.

    Raises:
        InvalidArgument: where there is no such panel.
    """
    check_panel(name)
    if ax is None:
        ax = matplotlib("pyplot").subplots(layout="constrained")[1]
    PANELS[name](report, ax)
    ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def check_panel(name: str) -> None:
    """Refuse what is no panel's name.

    Raises:
        InvalidArgument: naming those that there are.
    """
    if name not in PANELS:
        known = ", ".join(f'"{each}"' for each in PANELS)
        raise InvalidArgument(f"expected one of {known}; found {name!r}")


def require() -> None:
    """Make sure that matplotlib can be imported, before anything long is run.

    Raises:
        MissingDependency: where it is not installed.
    """
    matplotlib("figure")


def _has_race(report: ReportData) -> bool:
    return report.race is not None and bool(report.race.arms)


def _columns(report: ReportData) -> int:
    return 3 if _has_race(report) else 2


def _inches(report: ReportData) -> tuple[float, float]:
    width, height = _INCHES
    return width * _columns(report) / 2, height


def _draw_all(report: ReportData, axes: Any) -> None:
    """The four panels in the first two columns; the race, where there was one, in a third."""
    for name, ax in zip(MAIN_PANELS, axes[:, :2].flat, strict=True):
        panel(report, name, ax)
    if _has_race(report):
        panel(report, "race", axes[0, 2])
        axes[1, 2].set_axis_off()
    rate = "" if report.learning_rate is None else f", learning rate {report.learning_rate:.3g}"
    title = f"Batch size {report.recommendation.plan}{rate}; limited by {report.limited_by.value}"
    axes.flat[0].figure.suptitle(title, x=0.01, ha="left", weight="bold")
