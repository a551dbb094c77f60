"""The nine tables of a study: one row per size and rate, a column per seed, then the mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchfinder import html
from batchfinder.compare.data import Cell
from batchfinder.compare.rendering import number
from batchfinder.table import Row, Table, render, wrap
from batchfinder.units import format_bytes, format_seconds, format_size

if TYPE_CHECKING:
    from batchfinder.compare.data import Arm, StudyData

__all__ = ["StudyTable", "tables"]

_WIDTH = 100
_ABSENT = "-"
Format = Callable[[float], str]


@dataclass(frozen=True)
class StudyTable(html.Shown):
    """One table of a study; ``about`` says what its figures are, or why there are none."""

    title: str
    about: str
    table: Table

    def __str__(self) -> str:
        parts = [self.title, wrap(self.about, _WIDTH)]
        return "\n".join([*parts, *([render(self.table, _WIDTH)] if self.table.rows else [])])

    def _repr_html_(self) -> str:
        return html.fragment([self.as_html()])

    def as_html(self) -> str:
        """Title, table and explanation, for a page."""
        body = html.table(self.table) if self.table.rows else ""
        return html.section(self.title, body + html.paragraphs([self.about], quiet=True))


def tables(study: StudyData) -> tuple[StudyTable, ...]:
    """Loss, time, accuracy in training and validation, parameters, convergence, memory, gap."""
    metric = study.metric_name or "metric"
    judged = "validation loss" if study.has_validation else "training loss"
    by_metric = "" if study.metric_name else " None: no metric= was given."
    by_validation = "" if study.has_validation else " None: no validation_loader= was given."
    target = f"the loss first reached {number(study.target)}"
    return (
        _by_seed(
            study,
            f"1. Loss: the {judged} at the end",
            "Sizes are compared by it; lower is better.",
            lambda cell: cell.final(lambda look: look.loss),
        ),
        _by_seed(
            study,
            "2. Time: of the whole training",
            "Seconds of training, without validation.",
            lambda cell: cell.seconds,
            _time,
        ),
        _by_seed(
            study,
            f"3. Training: {metric} at the end",
            f"On the last training batches, in evaluation mode.{by_metric}",
            lambda cell: cell.final(lambda look: look.train_metric),
        ),
        _parameters(study),
        _by_seed(
            study,
            f"5. Validation: {metric} at the end",
            f"On the validation loader.{by_metric or by_validation}",
            lambda cell: cell.final(lambda look: look.metric),
        ),
        _by_seed(
            study,
            "6. Iterations to converge",
            f"Optimizer steps until {target}; {_ABSENT} if it never did.",
            lambda cell: cell.reach(study.target, lambda look: look.step),
        ),
        _by_seed(
            study,
            "7. Epochs to converge",
            f"Passes over the data until {target}; {_ABSENT} if it never did, or if the length "
            "of the data is unknown.",
            lambda cell: (
                cell.reach(study.target, lambda look: look.samples) / cell.epoch_samples
                if cell.epoch_samples
                else math.nan
            ),
        ),
        _by_seed(
            study,
            "8. Memory: peak of two steps",
            f"Weights, gradients, optimizer state and activations; {_ABSENT} if it was not "
            "measured.",
            lambda cell: math.nan if cell.peak_bytes is None else cell.peak_bytes,
            lambda value: format_bytes(round(value)),
        ),
        _by_seed(
            study,
            "9. Generalization gap",
            f"Validation loss minus training loss, at the end.{by_validation}",
            lambda cell: cell.gap,
        ),
    )


def _time(value: float) -> str:
    return format_seconds(value) if value >= 0 else _ABSENT


def _by_seed(
    study: StudyData,
    title: str,
    about: str,
    of: Callable[[Cell], float],
    shown: Format = number,
) -> StudyTable:
    seeds = sorted({cell.seed for cell in study.cells})
    rows = []
    for arm in study.arms:
        values = {cell.seed: of(cell) for cell in arm.cells}
        mean, scatter = arm.mean(of), arm.scatter(of)
        rows.append(
            Row(
                (
                    *_names(arm),
                    *(_shown(values.get(seed, math.nan), shown) for seed in seeds),
                    _shown(mean, shown),
                    f"±{shown(scatter)}" if math.isfinite(scatter) else "",
                )
            )
        )
    if not any(math.isfinite(of(cell)) for cell in study.cells):
        rows = []
    header = ("batch", "rate", *(f"seed {seed}" for seed in seeds), "mean", "scatter")
    whole = Table(header, tuple(rows))
    if len(seeds) == 1:
        whole = whole.without("mean").without("scatter")
    return StudyTable(title, about, whole)


def _parameters(study: StudyData) -> StudyTable:
    rows = []
    for arm in study.arms:
        cell = arm.cells[0]
        peak = arm.peak_bytes
        each = None if peak is None else peak * cell.accumulation_steps / cell.batch_size
        rows.append(
            Row(
                (
                    *_names(arm),
                    f"{cell.parameters:,}" if cell.parameters else _ABSENT,
                    format_size(cell.batch_size // cell.accumulation_steps),
                    _ABSENT if peak is None else format_bytes(peak),
                    _ABSENT if each is None else format_bytes(round(each)),
                )
            )
        )
    header = ("batch", "rate", "parameters", "micro-batch", "peak memory", "per sample")
    return StudyTable(
        "4. Parameters and memory",
        "Peak memory of two steps at the micro-batch size; per sample, the peak divided by it.",
        Table(header, tuple(rows)),
    )


def _names(arm: Arm) -> tuple[str, str]:
    return format_size(arm.batch_size), f"{arm.learning_rate:.3g}"


def _shown(value: float, shown: Format) -> str:
    return shown(value) if math.isfinite(value) else _ABSENT
