"""Report: what find_batch_size found, and every way to show and apply it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from batchfinder.encoding import AsJson
from batchfinder.errors import InvalidArgument, MissingDependency
from batchfinder.html import Shown
from batchfinder.report import document, explanation
from batchfinder.report import settings as paste
from batchfinder.report import text as terminal
from batchfinder.report.data import ReportData
from batchfinder.scaling import apply_once, set_rates

if TYPE_CHECKING:
    import pandas

    from batchfinder.monitor import TrainingMonitor

__all__ = ["Report"]


@dataclass(frozen=True, eq=False)
class Report(ReportData, AsJson, Shown):
    """Which batch size and learning rate to use, with the evidence.

    ``print(report)`` shows the table, the choice and the reason; :meth:`explain` says more.
    ``unit`` is what batch sizes count ("samples", or "tokens" under a token budget);
    ``seconds`` is the time that each stage took.
    """

    def __str__(self) -> str:
        return terminal.text(self)

    def text(self, width: int | None = None) -> str:
        """The table, the choice and the reason, at ``width`` columns (default: the terminal's)."""
        return terminal.text(self, width)

    def explain(self, width: int | None = None) -> str:
        """Explain the choice, its limit, the cost of alternatives and what else to change."""
        return explanation.explain(self, width)

    def settings(self, framework: str = "pytorch") -> str:
        """Return lines to paste for "pytorch", "lightning", "transformers" or "accelerate".

        Raises:
            InvalidArgument: where the framework is none of these.
        """
        return paste.settings(self, framework)

    def apply_rate(self, optimizer: Any, scheduler: Any = None) -> None:
        """Multiply every learning rate by :attr:`rate_factor`, in place.

        Every group of ``optimizer`` (one, or several in a list or dict) keeps its share. Where the
        search knew no rate of yours (no optimizer, or a rate of 0), the first group is given
        :attr:`learning_rate`, and the others keep their ratio to it. A rate written into an
        optimizer alone is undone by a scheduler that was made before: pass it, or several, nested
        ones included, and the rates that it keeps are multiplied too.

        Raises:
            InvalidArgument: where the report recommends no learning rate, and where the optimizer
                was given the recommended ones before.
        """
        factor = self.rate_factor
        if factor is None:
            raise InvalidArgument(
                "expected a recommended learning rate; found none: see the caveats for the "
                "reason, and pass base_learning_rate=, the rate of the base batch size"
            )
        change = self.recommendation.change
        if self.learning_rate and change is not None and not change.base_rate_is_yours:
            set_rates(optimizer, self.learning_rate, scheduler)
        else:
            apply_once(optimizer, factor, scheduler, rates=self.rates)

    def make_loader(
        self, loader: Any, *, make_loader: Callable[[int], Any] | None = None
    ) -> Iterable[Any]:
        """Rebuild ``loader`` at the recommended batch size; the given loader is not changed.

        Raises:
            CannotBuildBatch: where this loader cannot be rebuilt; pass ``make_loader``.
        """
        from batchfinder.run.batches import rebuild_loader

        rebuilt: Iterable[Any] = rebuild_loader(loader, self.batch_size, make_loader=make_loader)
        return rebuilt

    def monitor(self, model: Any, optimizer: Any, **options: Any) -> TrainingMonitor:
        """A :class:`TrainingMonitor` of the training at the recommended size.

        It prices its suggestions with this report's step times; ``options`` go to it as given.
        """
        from batchfinder.monitor import TrainingMonitor

        per_device = self.batch_size * self.accumulation_steps
        priced = self.candidates if self.unit == "samples" else ()
        given = {"batch_size": per_device, "candidates": priced, **options}
        return TrainingMonitor(model, optimizer, **given)

    def plot(self, ax: Any = None, *, panel: str | None = None) -> Any:
        """The figure: memory, throughput, noise scale, predicted time; the race if there was one.

        Without arguments all panels are drawn and the array of axes, shape ``(2, 2)`` or with a
        race ``(2, 3)``, is returned. With ``panel`` ("memory", "throughput", "noise", "time",
        "race") that one is drawn, into ``ax`` or a new figure; with ``ax`` alone "time".

        Raises:
            InvalidArgument: where there is no such panel.
            MissingDependency: where matplotlib is not installed.
        """
        from batchfinder import plot

        if ax is None and panel is None:
            return plot.plot(self)
        return plot.panel(self, "time" if panel is None else panel, ax)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per measured micro-batch, with the trials that were not measured left out.

        Raises:
            MissingDependency: where pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependency("to_pandas needs pandas: pip install pandas") from error
        return pandas.DataFrame(self._records())

    def _records(self) -> list[dict[str, Any]]:
        limit = self.memory.limit_bytes
        return [
            {
                "batch_size": each.batch_size,
                "samples_per_sec": each.samples_per_second,
                "samples_per_sec_low": each.samples_per_second_low,
                "samples_per_sec_high": each.samples_per_second_high,
                "step_time": 1000 * each.step_seconds,
                "peak_bytes": each.peak_bytes,
                "share_of_limit": each.peak_bytes / limit if each.peak_bytes and limit else None,
                "noise_scale": each.noise_scale and each.noise_scale.value,
                "noise_scale_low": each.noise_scale and each.noise_scale.low,
                "noise_scale_high": each.noise_scale and each.noise_scale.high,
                "unstable": each.unstable,
                "chosen": each.batch_size == self.batch_size,
            }
            for each in self.measurements
        ]

    @overload
    def to_html(self, path: None = None) -> str: ...

    @overload
    def to_html(self, path: str | Path) -> Path: ...

    def to_html(self, path: str | Path | None = None) -> str | Path:
        """A self-contained page, figure inside, no network.

        Returns:
            The page; or, where it was written to ``path``, the path: a notebook shows what a cell
            ends in, and nobody wants to read the page as text.
        """
        page = document.page(self)
        if path is None:
            return page
        Path(path).write_text(page, encoding="utf-8")
        return Path(path)

    def _repr_html_(self) -> str:
        return document.fragment(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Report):
            return NotImplemented
        return self.to_dict() == other.to_dict()  # NaN is written as a word, which equals itself

    def __hash__(self) -> int:
        return hash((self.recommendation.plan, self.max_batch_size, len(self.trials)))
