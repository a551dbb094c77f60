"""The study's figure: loss over training time. Matplotlib is imported when something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchfinder.errors import MissingDependency
from batchfinder.units import format_size

if TYPE_CHECKING:
    from batchfinder.compare.comparison import Comparison

__all__ = ["curves"]

_STYLES = ("-", "--", "-.", ":")


def curves(study: Comparison, ax: Any = None) -> Any:
    """One line per size at its best rate, every seed thin; the target as a level.

    Sizes differ by line style as well as by colour.
    """
    if ax is None:
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingDependency("plot needs matplotlib: pip install matplotlib") from error
        ax = Figure(figsize=(7, 4.5), layout="constrained").add_subplot()
    for number, size in enumerate(study.sizes):
        arm = study.best_arm(size)
        style = {"color": f"C{number % 10}", "linestyle": _STYLES[number % len(_STYLES)]}
        for index, cell in enumerate(arm.cells):
            ax.plot(
                [look.seconds for look in cell.curve],
                [look.loss for look in cell.curve],
                label=f"{format_size(size)} at {arm.learning_rate:.3g}" if index == 0 else None,
                linewidth=1.2,
                **style,
            )
    ax.axhline(study.target, color="0.5", linewidth=0.8)
    ax.set_xlabel("training time, seconds")
    ax.set_ylabel("validation loss")
    ax.legend(title="batch size at rate")
    return ax
