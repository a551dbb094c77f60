"""The frozen data that crosses the walls between stages, and every named outcome.

Plain numbers only: nothing here knows torch, a device or a file. Units are in the names
(``_bytes``, ``_seconds``); sizes without a unit are counts of samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from batchfinder.events import Note as Note
from batchfinder.events import StageStarted as StageStarted
from batchfinder.events import TrialStarted as TrialStarted
from batchfinder.outcomes import Limit as Limit
from batchfinder.outcomes import Outcome as Outcome
from batchfinder.outcomes import Stage as Stage
from batchfinder.races import RaceArm as RaceArm
from batchfinder.races import RaceResult as RaceResult


@dataclass(frozen=True)
class BatchPlan:
    """How one optimizer step is cut: micro-batch × accumulation steps × devices."""

    micro_batch: int
    accumulation_steps: int = 1
    world_size: int = 1

    @property
    def global_batch(self) -> int:
        """Samples per optimizer step, over all devices."""
        return self.micro_batch * self.accumulation_steps * self.world_size

    def __str__(self) -> str:
        parts = [str(self.micro_batch)]
        if self.accumulation_steps > 1:
            parts.append(f"{self.accumulation_steps} accumulation steps")
        if self.world_size > 1:
            parts.append(f"{self.world_size} devices")
        return " x ".join(parts)


@dataclass(frozen=True)
class Trial:
    """Whole training steps, update included, at one micro-batch.

    ``peak_bytes`` is the most that tensors took during the trial, with what else the process holds
    on the device (for one that failed: up to the failure); ``None`` where it cannot be read. It is
    what grows with the batch size along a line, and comparable with the limit. ``disturbed`` marks
    a trial during which another process took or freed memory on the same device.
    """

    batch_size: int
    outcome: Outcome
    peak_bytes: int | None = None
    seconds: float = 0.0
    disturbed: bool = False
    note: str = ""
    reserved_bytes: int | None = None
    """Like ``peak_bytes``, of what a caching allocator had reserved: the blocks that it holds ready
    are in it. ``None`` where nothing is cached."""
    retries: int = 0
    """How often the allocator had to flush its cache and try again, over all steps."""
    step_seconds: float = 0.0
    """The fastest of its whole steps; 0 where none ended."""

    @property
    def fits(self) -> bool:
        return self.outcome is Outcome.FITS


@dataclass(frozen=True)
class MemoryBreakdown:
    """Where the peak goes. All in bytes.

    ``fixed_bytes + per_sample_bytes · batch`` is the line fitted through the trials' peaks, with
    ``fit_residual`` its largest relative error on them. ``other_bytes`` is what the line leaves
    after parameters, buffers, gradients and optimizer state (workspaces, temporaries).
    ``fragmentation_bytes`` are those that a caching allocator had reserved at the largest size, at
    its peak, beyond what tensors took at theirs.
    """

    parameter_bytes: int
    buffer_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes_per_sample: float
    other_bytes: int
    limit_bytes: int
    fixed_bytes: int = 0
    per_sample_bytes: float = 0.0
    fit_residual: float = 0.0
    headroom_bytes: int | None = None
    non_torch_bytes: int = 0
    other_processes_bytes: int = 0
    fragmentation_bytes: int = 0

    def largest_by_line(self, more_bytes: int = 0) -> int | None:
        """The largest batch that the line allows, with ``more_bytes`` held; ``None`` without."""
        if self.per_sample_bytes <= 0:
            return None
        room = self.limit_bytes - self.fixed_bytes - more_bytes
        return max(0, int(room / self.per_sample_bytes))


@dataclass(frozen=True)
class ProbeResult:
    """What the probe found. The largest size is computed from the trials, never asserted."""

    trials: tuple[Trial, ...]
    memory: MemoryBreakdown
    limited_by: Limit
    ceiling: int | None = None
    caveats: tuple[str, ...] = ()
    ordinary_peak_bytes: int | None = None
    """Where lengths vary: the peak of ordinary samples at the largest size, not the longest."""

    @property
    def max_batch_size(self) -> int:
        """The largest micro-batch that was run and fitted, at its last trial; 0 if none did."""
        last = {trial.batch_size: trial for trial in self.trials}
        return max((trial.batch_size for trial in last.values() if trial.fits), default=0)

    @property
    def max_batch_size_with_ddp(self) -> int | None:
        """The largest micro-batch by the memory line once DistributedDataParallel wraps the model.

        Its buckets hold the gradients a second time, unless ``gradient_as_bucket_view=True``.
        """
        memory, largest = self.memory, self.max_batch_size
        by_line = memory.largest_by_line(memory.gradient_bytes)
        if by_line is None:
            return None
        if self.limited_by is Limit.MEMORY:
            by_line = largest - math.ceil(memory.gradient_bytes / memory.per_sample_bytes)
        return max(0, min(by_line, largest))


@dataclass(frozen=True)
class NoiseScale:
    """The gradient noise scale tr(Σ)/|G|², in ``unit``, with a confidence interval.

    ``high`` is ``inf`` where |G|² cannot be told from zero: then only "at least ``low``" is known,
    and ``value`` is the point estimate, but never more than four times the samples spent.
    ``samples`` were spent on the estimate, ``after_steps`` optimizer steps of warm-up.
    ``gradient_squared`` and ``noise_trace`` are the unbiased |G|² and tr(Σ) behind the ratio.
    Where ``estimator`` ends in "in the optimizer's metric", gradients were first divided by the
    root of Adam's second moments. A whole-run prediction (``whole_training``) is scaled up from
    that ratio.
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
    caveats: tuple[str, ...] = ()
    after_steps: int = 0
    confidence: float = 0.90
    """How often the interval from ``low`` to ``high`` holds the true figure."""
    whole_training: bool = False
    """Whether it predicts the run as a whole, rather than says what was seen at some weights."""

    @property
    def is_bounded(self) -> bool:
        """Whether the interval is closed above."""
        return math.isfinite(self.high)


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
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """What one micro-batch costs: medians with a 90% interval on the throughput.

    ``step_seconds`` is one optimizer step without accumulation, ``forward_backward_seconds +
    update_seconds``. ``loader_seconds`` is the time that the real loader takes to hand over one
    such batch when nothing else runs; ``None`` where it was not measured.
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

    @property
    def unstable(self) -> bool:
        """Whether the interval is wider than a fifth of the figure."""
        width = self.samples_per_second_high - self.samples_per_second_low
        return width > 0.2 * self.samples_per_second


@dataclass(frozen=True)
class Candidate:
    """One global batch that could be recommended; 1.0 is the recommended one's price."""

    plan: BatchPlan
    relative_time: float
    relative_samples: float
    step_seconds: float
    learning_rate: float | None = None
    peak_bytes: int | None = None
    chosen: bool = False
    relative_time_low: float = math.nan
    relative_time_high: float = math.nan
    roles: tuple[str, ...] = ()
    """Why it is of interest: "yours", "largest that fits", "highest throughput", …"""


@dataclass(frozen=True)
class Recommendation:
    """The choice, its learning rate and what would have changed it."""

    plan: BatchPlan
    learning_rate: float | None
    learning_rate_rule: str
    limited_by: Limit
    candidates: tuple[Candidate, ...]
    reason: str
    learning_rate_range: tuple[float, float] | None = None
    """Global batches between which the rule is trusted."""
    within_noise: tuple[int, int] | None = None
    """Smallest and largest global batch that the measurements cannot tell from the choice."""
    advice: tuple[str, ...] = ()
    """What else to change: steps, warm-up, schedule, weight decay, betas, EMA."""
    caveats: tuple[str, ...] = ()


@dataclass(frozen=True)
class Confirmation:
    """Dozens of real steps of one plan at one learning rate, and a short branch at twice it."""

    plan: BatchPlan
    learning_rate: float | None
    steps: int
    held: bool
    reason: str
    first_loss: float = math.nan
    last_loss: float = math.nan
    double_rate_held: bool | None = None
    peak_bytes: int | None = None
    seconds: float = 0.0
    out_of_memory: bool = False
    """Whether memory is why it did not hold."""
    double_rate_lead: float | None = None
    """How much further the loss fell at twice the rate, as a share of its fall at the rate: the
    lower end of what the scatter allows. ``None`` where the two were not compared."""


Event = (
    StageStarted
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
    """Where the figures come from."""

    device: str
    device_name: str
    torch: str
    python: str
    platform: str
    threads: int
    optimizer: str = ""
    precision: str = "float32"
    extra: tuple[tuple[str, str], ...] = field(default=())
