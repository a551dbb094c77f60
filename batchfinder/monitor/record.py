"""What a monitor saw, as frozen data: readings, events, suggestions, and the history of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from batchfinder import html
from batchfinder.report.encoding import dumps, encode, read
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
class Instability:
    """One instability, reported once per episode.

    ``said`` holds the code and the numbers of the evidence, and reads as the sentence that says
    what was seen and what people do about it. ``step`` counts optimizer steps from 1.
    """

    kind: Kind
    step: int
    said: Caveat

    def __str__(self) -> str:
        return f"step {self.step:,}, {self.kind.value}: {self.said}"

    def _repr_html_(self) -> str:
        return html.printed(self)


@dataclass(frozen=True)
class Suggestion:
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

    def _repr_html_(self) -> str:
        return html.printed(self)


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
        from batchfinder.monitor.drawing import plot

        return plot(self)
