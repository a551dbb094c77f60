"""What a monitor saw, as frozen data: readings, events and suggestions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from batchfinder.html import Shown
from batchfinder.results import NoiseScale
from batchfinder.wording import Caveat

__all__ = ["Instability", "Kind", "Reading", "Suggestion"]


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
