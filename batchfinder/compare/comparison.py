"""What the study found: per size and rate, over seeds; times to a target; regret."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from batchfinder.compare import page, rendering
from batchfinder.compare.data import Cell, StudyData
from batchfinder.compare.tables import StudyTable, tables
from batchfinder.encoding import AsJson
from batchfinder.errors import MissingDependency
from batchfinder.html import Shown

if TYPE_CHECKING:
    import pandas

__all__ = ["Comparison", "reached_by_all"]


@dataclass(frozen=True)
class Comparison(StudyData, AsJson, Shown):
    """The result of a study: every training and the comparison of the sizes.

    ``target`` is the loss to which times are measured; ``recommended`` is the size whose regret is
    reported first.
    """

    def __str__(self) -> str:
        return rendering.text(self)

    def _repr_html_(self) -> str:
        return page.fragment(self)

    def tables(self) -> tuple[StudyTable, ...]:
        """The study in nine tables, every seed in them.

        Loss, time, training metric, parameters and memory, validation metric, iterations and epochs
        to the target, memory, generalization gap.
        """
        return tables(self)

    @overload
    def to_html(self, path: None = None) -> str: ...

    @overload
    def to_html(self, path: str | Path) -> Path: ...

    def to_html(self, path: str | Path | None = None) -> str | Path:
        """The study on one self-contained page: answer, curves, the nine tables.

        Returns:
            The page; or, where it was written to ``path``, the path.
        """
        whole = page.page(self)
        if path is None:
            return whole
        Path(path).write_text(whole, encoding="utf-8")
        return Path(path)

    def plot(self, ax: Any = None) -> Any:
        """The curves, one line per size at its best rate; nothing is shown.

        Without ``ax`` a figure of six panels is made (loss over time and over epochs, training
        loss, both metrics, gap) and its axes, shape ``(2, 3)``, are returned. With ``ax`` the loss
        over training time is drawn into it, and ``ax`` is returned.

        Raises:
            MissingDependency: where matplotlib is not installed.
        """
        return page.plot(self) if ax is None else page.over_time(self, ax)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per look of every training.

        Raises:
            MissingDependency: where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependency("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame([row for cell in self.cells for row in _rows(cell)])

    def with_target(self, target: float) -> Comparison:
        """The same trainings, timed to another loss."""
        return replace(self, target=target)


def reached_by_all(cells: Iterable[Cell]) -> float:
    """The lowest loss that every training which used its budget has reached; -inf without one."""
    lowest = [cell.lowest(lambda look: look.loss) for cell in cells if cell.finished]
    return max((loss for loss in lowest if not math.isnan(loss)), default=-math.inf)


def _rows(cell: Cell) -> Iterator[dict[str, Any]]:
    for look in cell.curve:
        yield {
            "batch_size": cell.batch_size,
            "learning_rate": cell.learning_rate,
            "seed": cell.seed,
            "ending": cell.ending.name,
            "step": look.step,
            "samples": look.samples,
            "seconds": look.seconds,
            "train_loss": look.train_loss,
            "validation_loss": look.validation_loss,
            "metric": look.metric,
            "train_metric": look.train_metric,
        }
