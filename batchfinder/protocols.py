"""Protocols: what a value must offer to stand in for one of ours.

All are structural. Users pass values; nothing registers itself, nothing is subclassed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, runtime_checkable

from batchfinder.rates import GroupRate, UpdateEffect
from batchfinder.results import BatchPlan, Candidate, Event, NoiseScale

if TYPE_CHECKING:
    import torch

Batch: TypeAlias = Any
"""Whatever the user's loader yields: a tensor, tuple, mapping, dataclass, nested."""

Objective: TypeAlias = Callable[[Sequence[Candidate]], Candidate]
"""Which candidate is best. Called with candidates in increasing global batch."""

LearningRateRule: TypeAlias = Callable[[float, float, float, "NoiseScale | None"], float]
"""(base learning rate, base batch, batch, noise scale) -> learning rate at ``batch``."""

Observer: TypeAlias = Callable[[Event], None]
"""Gets every event as frozen data, in the thread of the caller."""

Clock: TypeAlias = Callable[[], float]
"""Seconds since any fixed moment, never going back; ``time.perf_counter`` outside tests."""


class Advance(Protocol):
    """Told of every step of a stage: the samples that it took; 0 steps where it is part of one."""

    def __call__(self, samples: int, steps: int = 1) -> None: ...


class DeviceProcess(Protocol):
    """One process that holds memory on a device."""

    @property
    def pid(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def bytes(self) -> int | None:
        """``None`` where it is not told."""
        ...


class MemoryBackend(Protocol):
    """A device's memory: its limit, its peak, and how to hand back what is cached.

    Requirements: ``peak_bytes`` is the most that tensors took since ``reset_peak``, with what else
    the process holds on the device, and comparable with ``limit_bytes``; inside ``watch`` the limit
    is enforced by raising an out-of-memory error.
    """

    @property
    def name(self) -> str: ...
    @property
    def is_simulated(self) -> bool: ...
    def limit_bytes(self) -> int: ...
    def held_bytes(self) -> int: ...
    def peak_bytes(self) -> int: ...
    def reserved_peak_bytes(self) -> int | None:
        """Like ``peak_bytes``, of what a caching allocator reserved; ``None`` without one."""
        ...

    def reset_peak(self) -> None: ...
    def release(self) -> None: ...
    def synchronize(self) -> None: ...
    def pressure(self) -> int:
        """How often the allocator had to flush its cache, ever; 0 where it cannot be told."""
        ...

    def other_processes_bytes(self) -> int:
        """Bytes that other processes hold on the device now; 0 where it cannot be told."""
        ...

    def other_processes(self) -> Sequence[DeviceProcess]:
        """Who those are; empty where it cannot be told."""
        ...

    def non_torch_bytes(self) -> int:
        """Bytes that this process holds on the device outside torch's allocator."""
        ...

    def paused(self) -> AbstractContextManager[None]:
        """Work inside is not counted, where anything is; the peak stays what it was."""
        ...

    def hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors made while it was paused, until they are freed.

        Nothing where the device's own allocator counts.

        Raises:
            torch.OutOfMemoryError: where they pass the limit.
        """
        ...

    def watch(self, held: Iterable[torch.Tensor] = ()) -> AbstractContextManager[None]:
        """Enforce the limit and follow the peak; ``held`` are tensors alive before it."""
        ...


class TrainStep(Protocol):
    """One training step of the user's, cut where accumulation cuts it."""

    @property
    def device(self) -> torch.device: ...
    @property
    def updates_itself(self) -> bool:
        """Whether ``forward_backward`` does backward *and* update; ``update`` is then a no-op."""
        ...

    def modules(self) -> list[torch.nn.Module]:
        """The user's modules, as they were given."""
        ...

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers that ``update`` steps; none where the step keeps them to itself."""
        ...

    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that are trained, each once."""
        ...

    def holdings(self) -> Iterable[torch.Tensor]:
        """Every tensor alive between steps: parameters, buffers, gradients, optimizer state."""
        ...

    def forward_backward(self, batch: Batch, scale: float = 1.0) -> torch.Tensor:
        """Move ``batch`` to the device, forward, backward of ``loss · scale``; the detached loss.

        Gradients are added to ``.grad``. ``scale`` is 1 / accumulation steps.
        """
        ...

    @property
    def weight(self) -> float:
        """The factor, beside ``scale``, under which the last micro-batch entered ``.grad``.

        1.0 unless micro-batches have weights of their own, as their counts of tokens.
        """
        ...

    def loss_scale(self) -> float:
        """What gradients must be divided by (a gradient scaler's scale); 1.0 without one."""
        ...

    def update(self) -> None:
        """Optimizer step (through the gradient scaler where there is one)."""
        ...

    def learning_rate(self) -> float | None:
        """The first parameter group's rate; ``None`` where no rate is known."""
        ...

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply every parameter group's rate by ``factor``."""
        ...

    def set_learning_rate(self, rate: float) -> None:
        """Give the first group this rate, and every other one its share of it."""
        ...

    @property
    def optimizer_family(self) -> str:
        """What decides the learning-rate rule: "sgd", "sgd-momentum", "adam", …, "unknown"."""
        ...

    def zero_grad(self) -> None:
        """Set every gradient to ``None``."""
        ...


class UpdateWatch(Protocol):
    """A look at what the updates of a step do, from when it began."""

    @property
    def updates(self) -> int:
        """How many there have been."""
        ...

    def effect(self) -> UpdateEffect:
        """Which of rate, parameters and optimizer state have moved since."""
        ...


class WholeStep(TrainStep, Protocol):
    """A ``TrainStep`` with all that setting a call up, predicting and reporting ask of it."""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What had to be inferred, as sentences; complete after the first ``forward_backward``."""
        ...

    @property
    def is_compiled(self) -> bool:
        """Whether a part of it runs as compiled code."""
        ...

    @property
    def optimizer_name(self) -> str:
        """The classes of the optimizers, such as ``"Muon + AdamW"``."""
        ...

    @property
    def precision(self) -> str:
        """In which precision it computes, as text."""
        ...

    @property
    def has_looked(self) -> bool:
        """Whether ``look`` has run."""
        ...

    def look(self, batch: Batch) -> None:
        """See which parameters the gradients of ``batch`` reach; state is the caller's to put back.

        Optimizer state is then laid out for those alone.
        """
        ...

    def prime(self) -> None:
        """Lay out the optimizer's state without moving a weight."""
        ...

    def reached(self) -> list[torch.nn.Parameter]:
        """The trained parameters that have gradients, as far as is known."""
        ...

    def check_loss(self, loss: torch.Tensor) -> None:
        """Refuse a loss that is no number.

        Raises:
            LossIsNotFinite: for NaN and infinity.
        """
        ...

    def base_learning_rate(self) -> float | None:
        """The peak of the first group's rate: what a scheduler started from or rises to."""
        ...

    def group_rates(self, recommended: float | None = None) -> tuple[GroupRate, ...]:
        """Every group's base rate, and what it becomes where the first one's is ``recommended``."""
        ...

    def watched(self) -> AbstractContextManager[UpdateWatch]:
        """What the updates inside do is looked at."""
        ...


class BatchSource(Protocol):
    """The user's loader, as batches of any size. The loader itself is never touched."""

    @property
    def base_batch_size(self) -> int | None:
        """The size that the user's loader is set to."""
        ...

    @property
    def length(self) -> int | None:
        """Samples in the dataset; ``None`` for a stream."""
        ...

    @property
    def ceiling(self) -> int | None:
        """The largest batch that the dataset can fill; ``None`` for a stream."""
        ...

    @property
    def unit(self) -> str:
        """What a batch size counts: "samples", or "tokens" under a token budget."""
        ...

    def take(self, size: int) -> Batch:
        """A batch of exactly ``size`` for memory trials and timing: the same at every call.

        Where lengths vary this is the batch of the longest samples.
        """
        ...

    def ordinary(self, size: int) -> Batch:
        """Like ``take``, of ordinary samples rather than the longest: for timing."""
        ...

    def draw(self, size: int) -> Batch:
        """``size`` samples not drawn since the last ``rewind``, in random order (for noise)."""
        ...

    def rewind(self, seed: int) -> None:
        """Start ``draw`` again, shuffled by ``seed``."""
        ...

    def count(self, batch: Batch) -> int:
        """How many samples (or tokens) ``batch`` holds."""
        ...

    def rebuild(self, size: int) -> Iterable[Batch]:
        """The user's own loader at another batch size: same dataset, collate, workers, order."""
        ...

    @property
    def smallest(self) -> int:
        """The smallest batch that can be built: 1, or the longest sample of a token budget."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be assumed of the loader, as sentences."""
        ...

    @property
    def varies(self) -> bool:
        """Whether a batch of the longest samples is larger than an ordinary one."""
        ...

    def as_ordinary(self) -> BatchSource:
        """The same source with ordinary batches in place of the longest."""
        ...

    @property
    def worker_copies(self) -> int:
        """Batches that the loader's workers hold in host memory at once."""
        ...

    def close(self) -> None:
        """End the workers that read for it, if there are any."""
        ...


class MicroBatches(Protocol):
    """Micro-batches of distinct samples for one estimate, and what each one counts."""

    @property
    def size(self) -> int:
        """Samples in each, nominally."""
        ...

    @property
    def unit(self) -> str:
        """What a size counts: "samples", or "tokens" under a token budget."""
        ...

    @property
    def population(self) -> int | None:
        """Samples in the whole set; ``None`` for a stream."""
        ...

    @property
    def ended(self) -> str:
        """What ended the batches before they were all asked for: "data", "time", or ""."""
        ...

    def __iter__(self) -> Iterator[Batch]: ...
    def count(self, batch: Batch) -> int:
        """How many samples (or tokens) ``batch`` holds."""
        ...

    def weight(self, batch: Batch) -> float:
        """The factor under which the loss of ``batch`` enters an accumulated gradient."""
        ...

    def first(self, most: int) -> MicroBatches:
        """The first ``most`` micro-batches, and no more."""
        ...


class NoiseEstimator(Protocol):
    """How the gradient noise scale is estimated at the weights as they are.

    This much is required. One that is also a ``WarmupEstimator`` says itself what it spends, and
    can be had from the training steps themselves.
    """

    @property
    def name(self) -> str: ...
    def estimate(self, step: TrainStep, batches: MicroBatches, plan: BatchPlan) -> NoiseScale:
        """The noise scale at the weights as they are, which do not move.

        ``batches`` are micro-batches of ``plan.micro_batch`` samples, none of them seen before;
        iterate over them, and no further than needed.

        Raises:
            NoiseNotMeasured: where there is none.
        """
        ...


@runtime_checkable
class WarmupEstimator(NoiseEstimator, Protocol):
    """A noise estimator with everything that a warm-up of real training can make use of."""

    @property
    def along_training(self) -> bool:
        """Whether its figure is ``noise_trace / gradient_squared``.

        If so, both are also read from the training steps of the warm-up, whose gradients are
        there anyway, and ``estimate`` is asked only for what these leave open.
        """
        ...

    @property
    def samples(self) -> int:
        """Samples that one estimate may spend."""
        ...

    @property
    def confidence(self) -> float:
        """How often its interval holds the true figure, such as 0.90."""
        ...

    @property
    def warmup_steps(self) -> int | None:
        """Optimizer steps of warm-up; ``None`` for as many as the time allows, up to 200."""
        ...

    def with_budget(self, samples: int, *, at_least: int) -> Self:
        """The same, with ``samples`` to spend on at least so many micro-batches."""
        ...

    def in_optimizer_metric(self) -> Self:
        """The same over gradients as the optimizer scales them; itself where it cannot."""
        ...
