"""The study as a figure and as a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from batchfinder import html
from batchfinder.compare import rendering
from batchfinder.compare.data import Cell, Look
from batchfinder.compare.tables import tables
from batchfinder.plot import matplotlib, svg_of
from batchfinder.units import format_size
from batchfinder.wording import capitalized

if TYPE_CHECKING:
    from batchfinder.compare.data import StudyData

__all__ = ["fragment", "over_time", "page", "plot", "svg"]


def fragment(study: StudyData) -> str:
    """The answer, the table and the caveats, as ``print`` shows them."""
    return html.fragment(_summary(study))


def page(study: StudyData) -> str:
    """Everything, in a document that needs nothing outside itself."""
    words = "Curves of every training: loss, metric and gap over the epochs"
    figure = html.figure(lambda: svg(study), words)
    parts = [*_summary(study), html.section("Curves", figure)]
    parts += [each.as_html() for each in tables(study)]
    return html.page(f"batchfinder: {rendering.title(study)}", parts)


def _summary(study: StudyData) -> Iterator[str]:
    yield html.answer(rendering.headline(study))
    yield html.table(rendering.table(study))
    yield html.paragraphs([rendering.legend(study)], quiet=True)
    yield html.items(rendering.regrets(study))
    if study.caveats:
        yield html.details("Caveats", html.items(map(capitalized, study.caveats)), shown=True)


_STYLES = ("-", "--", "-.", ":")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_INCHES = (12.0, 7.0)
Reading = Callable[[Look], float | None]


def plot(study: StudyData) -> Any:
    """The six panels in a pyplot figure; its axes, shape ``(2, 3)``. Nothing is shown.

    Raises:
        MissingDependency: where matplotlib is not installed.
    """
    _, axes = matplotlib("pyplot").subplots(2, 3, figsize=_INCHES, layout="constrained")
    _draw_all(study, axes)
    return axes


def svg(study: StudyData) -> str:
    """The figure as SVG text, the same for the same study.

    Raises:
        MissingDependency: where matplotlib is not installed.
    """
    made = matplotlib("figure").Figure(figsize=_INCHES, layout="constrained")
    _draw_all(study, made.subplots(2, 3))
    return svg_of(made)


def _draw_all(study: StudyData, axes: Any) -> None:
    metric = study.metric_name or "metric"
    over_time(study, axes[0, 0])
    panels: list[tuple[Any, str, Reading]] = [
        (axes[0, 1], _judged(study), lambda look: look.loss),
        (axes[0, 2], "training loss", lambda look: look.train_loss),
        (axes[1, 0], f"training {metric}", lambda look: look.train_metric),
        (axes[1, 1], f"validation {metric}", lambda look: look.metric),
        (axes[1, 2], "gap (validation minus training loss)", _gap),
    ]
    for ax, label, reading in panels:
        _over_epochs(study, ax, label, reading)


def over_time(study: StudyData, ax: Any) -> Any:
    """Loss over training time, the target as a level."""
    _curves(study, ax, lambda cell, look: look.seconds, lambda look: look.loss)
    ax.axhline(study.target, color="0.5", linewidth=0.8)
    ax.set_xlabel("training time, seconds")
    ax.set_ylabel(_judged(study))
    ax.legend(title="batch size at rate")
    return ax


def _over_epochs(study: StudyData, ax: Any, label: str, reading: Reading) -> None:
    counts_epochs = all(cell.epoch_samples for cell in study.cells)

    def place(cell: Cell, look: Look) -> float:
        return look.samples / cell.epoch_samples if cell.epoch_samples else look.samples

    _curves(study, ax, place, reading)
    ax.set_xlabel("epochs" if counts_epochs else "samples")
    ax.set_ylabel(label)
    if not ax.lines:
        ax.text(0.5, 0.5, "not measured", ha="center", transform=ax.transAxes)
        ax.set_xticks([])
        ax.set_yticks([])


def _curves(
    study: StudyData, ax: Any, place: Callable[[Cell, Look], float], reading: Reading
) -> None:
    """One line per size at its best rate, every seed; told apart in black and white too."""
    for number, size in enumerate(study.sizes):
        arm = study.best_arm(size)
        style = {
            "color": f"C{number % 10}",
            "linestyle": _STYLES[number % len(_STYLES)],
            "marker": _MARKS[number % len(_MARKS)],
        }
        label = f"{format_size(size)} at {arm.learning_rate:.3g}"
        for index, cell in enumerate(arm.cells):
            read = [(place(cell, look), reading(look)) for look in cell.curve]
            known = [(x, y) for x, y in read if y is not None and math.isfinite(y)]
            if known:
                ax.plot(
                    *zip(*known, strict=True),
                    label=label if index == 0 else None,
                    linewidth=1.2,
                    markersize=3.5,
                    **style,
                )


def _judged(study: StudyData) -> str:
    return "validation loss" if study.has_validation else "training loss"


def _gap(look: Look) -> float | None:
    return None if look.validation_loss is None else look.validation_loss - look.train_loss
