"""The history of a training: all that a monitor saw, as data, as JSON and as a figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchfinder.monitor.record import Instability, Reading, Suggestion
from batchfinder.plot import BLUE, GREY, ORANGE, matplotlib, title
from batchfinder.report.encoding import dumps, encode, read

__all__ = ["History"]

_INCHES = (10.0, 6.4)


@dataclass(frozen=True)
class History:
    """Everything that a monitor saw, in order."""

    readings: tuple[Reading, ...] = ()
    events: tuple[Instability, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The history as plain objects, lists, strings and numbers, fit for strict JSON."""
        encoded: dict[str, Any] = encode(self)
        return encoded

    def to_json(self, path: str | Path | None = None) -> str:
        """The history as strict JSON; written to ``path`` too, where one is given."""
        written = dumps(self)
        if path is not None:
            Path(path).write_text(written + "\n", encoding="utf-8")
        return written

    @classmethod
    def from_json(cls, source: str | Path) -> History:
        """The history that ``to_json`` wrote: its text, or the path of its file.

        Raises:
            InvalidArgument: where this is no history.
        """
        return read(cls, source)

    def plot(self) -> Any:
        """Noise scale, loss, gradient norm and batch size over samples; axes, shape ``(2, 2)``.

        Nothing is shown.

        Raises:
            MissingDependency: where matplotlib is not installed.
        """
        return _drawn(self)


def _drawn(history: History) -> Any:
    """Four panels over samples in a pyplot figure; its axes, shape ``(2, 2)``. Nothing is shown.

    Events are upright lines, numbered in the order of ``history.events``.

    Raises:
        MissingDependency: where matplotlib is not installed.
    """
    _, axes = matplotlib("pyplot").subplots(
        2, 2, figsize=_INCHES, layout="constrained", sharex=True
    )
    readings = history.readings
    _noise(axes[0, 0], readings)
    _line(axes[0, 1], readings, [each.loss for each in readings], "Loss", "mean between looks")
    norms = [each.gradient_norm for each in readings]
    _line(axes[1, 0], readings, norms, "Gradient norm", "before clipping")
    sizes = [float(each.batch_size) for each in readings]
    _line(axes[1, 1], readings, sizes, "Batch size", "samples per step")
    for ax in axes.flat:
        ax.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        _events(ax, history)
    for ax in axes[1]:
        ax.set_xlabel("samples")
    return axes


def _noise(ax: Any, readings: tuple[Reading, ...]) -> None:
    title(ax, "Noise scale", "samples, 90% interval")
    known = [(each.samples, each.noise_scale) for each in readings if each.noise_scale is not None]
    if not known:
        ax.annotate("not measured", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    places = [samples for samples, _ in known]
    values = [noise.value for _, noise in known]
    top = max(noise.high if math.isfinite(noise.high) else noise.value for _, noise in known)
    highs = [noise.high if math.isfinite(noise.high) else 2 * top for _, noise in known]
    lows = [max(noise.low, min(values) / 100) for _, noise in known]
    ax.fill_between(places, lows, highs, color=BLUE, alpha=0.2, linewidth=0)
    ax.plot(places, values, "o-", color=BLUE, markersize=3)
    sizes = [float(each.batch_size) for each in readings]
    ax.plot(_samples(readings), sizes, "--", color=GREY, label="batch size")
    ax.set_yscale("log")
    ax.set_ylim(top=1.2 * top)
    ax.legend(frameon=False)


def _line(
    ax: Any, readings: tuple[Reading, ...], values: list[float], name: str, label: str
) -> None:
    title(ax, name, label)
    ax.plot(_samples(readings), values, "o-", color=BLUE, markersize=3)


def _events(ax: Any, history: History) -> None:
    for number, event in enumerate(history.events, start=1):
        place = _samples_at(history.readings, event.step)
        ax.axvline(place, color=ORANGE, linewidth=1.0, linestyle="-.")
        where = ("data", "axes fraction")
        ax.annotate(str(number), (place, 1.0), xycoords=where, color=ORANGE, ha="center")


def _samples(readings: tuple[Reading, ...]) -> list[int]:
    return [each.samples for each in readings]


def _samples_at(readings: tuple[Reading, ...], step: int) -> float:
    """Samples seen at ``step``, between the readings around it in proportion."""
    before_step, before = 0, 0
    for each in readings:
        if each.step >= step:
            share = (step - before_step) / (each.step - before_step)
            return before + share * (each.samples - before)
        before_step, before = each.step, each.samples
    last = readings[-1].batch_size if readings else 1
    return before + (step - before_step) * last
