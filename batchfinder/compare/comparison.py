"""What the study found: per size and rate, over seeds; times to a target; regret."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, overload

from batchfinder.compare import drawing, page, rendering
from batchfinder.compare.cells import Cell, Ending, Look
from batchfinder.compare.tables import StudyTable, tables
from batchfinder.errors import InvalidArgument, MissingDependency
from batchfinder.report import encoding
from batchfinder.wording import Caveat

if TYPE_CHECKING:
    import pandas

__all__ = ["Arm", "Comparison"]


@dataclass(frozen=True)
class Arm:
    """One size at one rate, over its seeds. Means; ``inf`` where a seed never met the target."""

    batch_size: int
    learning_rate: float
    cells: tuple[Cell, ...]

    def mean(self, of: Callable[[Cell], float]) -> float:
        return fmean(map(of, self.cells))

    def scatter(self, of: Callable[[Cell], float]) -> float:
        """The standard deviation over seeds; NaN for one seed."""
        values = [of(cell) for cell in self.cells]
        finite = len(values) > 1 and all(map(math.isfinite, values))
        return stdev(values) if finite else math.nan

    def reach(self, target: float, of: Callable[[Look], float]) -> float:
        """Mean seconds, steps or samples to the target."""
        return self.mean(lambda cell: cell.reach(target, of))

    @property
    def ending(self) -> Ending:
        """How its seeds ended; the first that is not "finished", if any."""
        return next((cell.ending for cell in self.cells if not cell.finished), Ending.FINISHED)

    @property
    def peak_bytes(self) -> int | None:
        return max((c.peak_bytes for c in self.cells if c.peak_bytes is not None), default=None)


@dataclass(frozen=True)
class Comparison:
    """The study: every training, and what follows from them.

    ``target`` is the loss that times are measured to; ``recommended`` is the size whose regret is
    asked for first.
    """

    cells: tuple[Cell, ...]
    target: float
    base_batch_size: int
    recommended: int | None = None
    metric_name: str = ""
    caveats: tuple[Caveat, ...] = ()

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Sizes × rates, in order of size, then rate."""
        keys = sorted({(cell.batch_size, cell.learning_rate) for cell in self.cells})
        return tuple(
            Arm(size, rate, tuple(c for c in self.cells if (c.batch_size, c.learning_rate) == key))
            for key in keys
            for size, rate in (key,)
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(sorted({cell.batch_size for cell in self.cells}))

    @property
    def largest(self) -> int | None:
        """The largest size of which no training ran out of memory."""
        failed = {c.batch_size for c in self.cells if c.ending is Ending.OUT_OF_MEMORY}
        return max((size for size in self.sizes if size not in failed), default=None)

    def best_arm(self, size: int) -> Arm:
        """The rate of ``size`` that meets the target first; if none does, that of the lowest loss.

        Raises:
            InvalidArgument: for a size that was not trained.
        """
        arms = [arm for arm in self.arms if arm.batch_size == size]
        if not arms:
            raise InvalidArgument(f"expected one of the sizes {self.sizes}; found {size}")
        return min(arms, key=lambda arm: (self.seconds_to_target(arm), _lowest(arm)))

    def seconds_to_target(self, arm: Arm) -> float:
        return arm.reach(self.target, lambda look: look.seconds)

    def regret(self, size: int) -> float:
        """How much longer ``size``, at its best rate here, takes to the target than the best.

        0 is the best; ``inf`` for a size that never meets it; NaN where none does.
        """
        best = min(self.seconds_to_target(arm) for arm in self.arms)
        own = self.seconds_to_target(self.best_arm(size))
        if math.isinf(best):
            return math.nan
        return own / best - 1 if best else 0.0

    def regrets(self) -> Iterator[tuple[str, int, float]]:
        """Role, size and regret of the recommended, of 32, and of the largest that fits."""
        roles = (("recommended", self.recommended), ("32", 32), ("largest that fits", self.largest))
        for role, size in roles:
            if size in self.sizes and size is not None:
                yield role, size, self.regret(size)

    def __str__(self) -> str:
        return rendering.text(self)

    def _repr_html_(self) -> str:
        return page.fragment(self)

    @property
    def has_validation(self) -> bool:
        """Whether the trainings were judged on a validation loader."""
        return any(look.validation_loss is not None for c in self.cells for look in c.curve)

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
        """The study on one page that stands alone: answer, curves, the nine tables.

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
        return drawing.figure(self)[1] if ax is None else drawing.over_time(self, ax)

    def to_json(self, path: str | Path | None = None) -> str:
        """The study as strict JSON; written to ``path`` too, where one is given."""
        written = encoding.dumps(self)
        if path is not None:
            Path(path).write_text(written + "\n", encoding="utf-8")
        return written

    @classmethod
    def from_json(cls, source: str | Path) -> Comparison:
        """The study that ``to_json`` wrote: its text, or the path of its file.

        Raises:
            InvalidArgument: where this is no comparison.
        """
        return encoding.read(cls, source)

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


def _lowest(arm: Arm) -> float:
    lowest = arm.mean(lambda cell: cell.lowest(lambda look: look.loss))
    return math.inf if math.isnan(lowest) else lowest


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
