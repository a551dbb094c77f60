"""The frozen data that stages exchange, and every named outcome.

Plain numbers only: nothing here knows torch, a device or a file. Units are in the names
(``_bytes``, ``_seconds``); sizes without a unit are counts of samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from batchfinder.events import Note as Note
from batchfinder.events import Progress as Progress
from batchfinder.events import StageStarted as StageStarted
from batchfinder.events import TrialStarted as TrialStarted
from batchfinder.html import Shown
from batchfinder.outcomes import Judgement as Judgement
from batchfinder.outcomes import Limit as Limit
from batchfinder.outcomes import Outcome as Outcome
from batchfinder.outcomes import Role as Role
from batchfinder.outcomes import Stage as Stage
from batchfinder.outcomes import Why as Why
from batchfinder.plans import KNEE as KNEE
from batchfinder.plans import SAME as SAME
from batchfinder.plans import BatchPlan as BatchPlan
from batchfinder.plans import Candidate as Candidate
from batchfinder.plans import Change as Change
from batchfinder.plans import Confirmation as Confirmation
from batchfinder.plans import Counted as Counted
from batchfinder.plans import Loading as Loading
from batchfinder.plans import Recommendation as Recommendation
from batchfinder.plans import Schedule as Schedule
from batchfinder.plans import Speedup as Speedup
from batchfinder.rank_facts import RankFacts as RankFacts
from batchfinder.rates import GroupRate as GroupRate
from batchfinder.rates import RaceArm as RaceArm
from batchfinder.rates import RaceResult as RaceResult
from batchfinder.trials import MemoryBreakdown as MemoryBreakdown
from batchfinder.trials import ProbeResult as ProbeResult
from batchfinder.trials import Trial as Trial
from batchfinder.wording import Caveat, summary


@dataclass(frozen=True)
class NoiseScale(Shown):
    """The gradient noise scale tr(Σ)/|G|², in ``unit``, with a confidence interval.

    ``high`` is ``inf`` if |G|² is indistinguishable from zero: then only "at least ``low``" is
    known, and ``value`` is the point estimate, but at most four times the number of samples.
    ``samples`` is the number of samples used, ``after_steps`` the number of warm-up steps.
    ``gradient_squared`` and ``noise_trace`` are the unbiased |G|² and tr(Σ) behind the ratio. Where
    ``estimator`` ends in "in the optimizer's metric", gradients were first divided by the root of
    Adam's second moments. A whole-run prediction (``whole_training``) is scaled up from that ratio.
    Source: McCandlish et al. 2018, arXiv:1812.06162.
    """

    value: float
    low: float
    high: float
    samples: int
    estimator: str
    unit: str = "samples"
    gradient_squared: float = math.nan
    noise_trace: float = math.nan
    micro_batch: int = 0
    caveats: tuple[Caveat, ...] = ()
    after_steps: int = 0
    confidence: float = 0.90
    """How often the interval from ``low`` to ``high`` holds the true figure."""
    whole_training: bool = False
    """Whether it predicts the run as a whole, rather than says what was seen at some weights."""

    @property
    def is_bounded(self) -> bool:
        """Whether the interval is closed above."""
        return math.isfinite(self.high)

    def __str__(self) -> str:
        return summary.noise_scale(
            value=self.value,
            low=self.low,
            high=self.high,
            confidence=self.confidence,
            unit=self.unit,
            estimator=self.estimator,
            samples=self.samples,
            micro_batch=self.micro_batch,
            after_steps=self.after_steps,
            caveats=self.caveats,
        )


@dataclass(frozen=True)
class NoiseFindings:
    """What a warm-up told of the noise scale.

    ``training`` predicts the noise scale of the run as a whole, ``None`` where nothing honest can
    be said (the caveats say why). ``points`` were measured along the warm-up, in order;
    ``per_size`` at its last weights, one per micro-batch asked for.
    """

    training: NoiseScale | None
    points: tuple[NoiseScale, ...] = ()
    per_size: tuple[NoiseScale, ...] = ()
    caveats: tuple[Caveat, ...] = ()


@dataclass(frozen=True)
class Energy:
    """What one micro-batch costs in energy: medians with a 90% interval, the whole device's draw.

    ``idle_watts``, which it draws without any work, is contained in the joules.
    """

    joules_per_sample: float
    joules_per_sample_low: float
    joules_per_sample_high: float
    idle_watts: float


@dataclass(frozen=True)
class Measurement:
    """The timing of one micro-batch: medians, with a 90% interval on the throughput.

    ``step_seconds`` is one optimizer step without accumulation, ``forward_backward_seconds +
    update_seconds``. ``loader_seconds`` is the time that the real loader takes to hand over one
    such batch when nothing else runs; ``None`` if it was not measured.
    """

    batch_size: int
    samples_per_second: float
    samples_per_second_low: float
    samples_per_second_high: float
    step_seconds: float
    forward_backward_seconds: float
    update_seconds: float
    loader_seconds: float | None = None
    peak_bytes: int | None = None
    repeats: int = 0
    noise_scale: NoiseScale | None = None
    energy: Energy | None = None
    """``None`` where the device does not report its energy."""

    @property
    def unstable(self) -> bool:
        """Whether the interval is wider than a fifth of the figure."""
        width = self.samples_per_second_high - self.samples_per_second_low
        return width > 0.2 * self.samples_per_second


@dataclass(frozen=True)
class Timings:
    """The sizes that were timed, in increasing order, and what to say of those that were not."""

    measurements: tuple[Measurement, ...]
    caveats: tuple[Caveat, ...] = ()


Event = (
    StageStarted
    | Progress
    | TrialStarted
    | Trial
    | Measurement
    | NoiseScale
    | RaceArm
    | Confirmation
    | Recommendation
    | Note
)


@dataclass(frozen=True)
class Environment:
    """The machine and the versions of the measurements."""

    device: str
    device_name: str
    torch: str
    python: str
    platform: str
    threads: int
    optimizer: str = ""
    precision: str = "float32"
    extra: tuple[tuple[str, str], ...] = field(default=())
