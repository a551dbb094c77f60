"""What a monitor saw: readings, events, suggestions; as data, as JSON and as a figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

from batchfinder.encoding import AsJson
from batchfinder.html import Shown
from batchfinder.plot import BLUE, GREY, ORANGE, matplotlib, title
from batchfinder.results import NoiseScale
from batchfinder.wording import Caveat

__all__ = ["History", "Instability", "Kind", "Reading", "Suggestion"]


class Kind(Enum):
    """The ways in which a training becomes unstable."""

    NOT_FINITE = "not finite"
    DIVERGING = "diverging"
    OSCILLATING = "oscillating"
    SPIKE = "spike"
    ERRATIC = "erratic updates"
    STALLED = "stalled"


@dataclass(frozen=True)
class Instability(Shown):
    """One instability, reported once per episode.

    ``said`` holds the code and the numbers of the evidence, and reads as the sentence that says
    what was seen and what people do about it. ``step`` counts optimizer steps from 1.
    """

    kind: Kind
    step: int
    said: Caveat

    def __str__(self) -> str:
        return f"step {self.step:,}, {self.kind.value}: {self.said}"


@dataclass(frozen=True)
class Suggestion(Shown):
    """A batch size that would now be faster, priced with measured step times.

    ``relative_time`` is the predicted time of the rest at ``batch_size`` over that at the present
    batch size; ``relative_time_low`` and ``relative_time_high`` are its values at the ends of the
    noise scale's interval. ``batch_size`` counts samples per optimizer step over all devices.
    """

    step: int
    batch_size: int
    learning_rate: float
    relative_time: float
    relative_time_low: float
    relative_time_high: float
    said: Caveat

    def __str__(self) -> str:
        return f"step {self.step:,}: {self.said}"


@dataclass(frozen=True)
class Reading:
    """What one look saw. Figures that could not be read are NaN.

    ``loss`` is the mean since the reading before. ``gradient_norm`` is that of the gradient of the
    whole step, before clipping. ``update_ratio`` is ‖Δw‖/‖w‖ and ``update_cosine`` the mean cosine
    between consecutive updates, over the steps of the look. ``gradient_squared`` and
    ``noise_trace`` are the unbiased |G|² and tr(Σ) of this step alone, ``noise_scale`` the ratio
    pooled over the window that ends here.
    """

    step: int
    samples: int
    batch_size: int
    learning_rate: float
    loss: float = math.nan
    gradient_norm: float = math.nan
    update_ratio: float = math.nan
    update_cosine: float = math.nan
    gradient_squared: float = math.nan
    noise_trace: float = math.nan
    noise_scale: NoiseScale | None = None

    def scalars(self) -> dict[str, float]:
        """The figures by name, as loggers take them; what could not be read is left out.

        ``loss``, ``gradient_norm``, ``update_ratio``, ``update_cosine``, ``learning_rate``,
        ``batch_size``, and ``noise_scale`` with ``noise_scale_low`` and ``noise_scale_high``.
        """
        found = {
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "update_ratio": self.update_ratio,
            "update_cosine": self.update_cosine,
            "learning_rate": self.learning_rate,
            "batch_size": float(self.batch_size),
        }
        if (noise := self.noise_scale) is not None:
            found |= {
                "noise_scale": noise.value,
                "noise_scale_low": noise.low,
                "noise_scale_high": noise.high,
            }
        return {name: value for name, value in found.items() if math.isfinite(value)}


_INCHES = (10.0, 6.4)


@dataclass(frozen=True)
class History(AsJson):
    """Everything that a monitor saw, in order."""

    readings: tuple[Reading, ...] = ()
    events: tuple[Instability, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()

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
