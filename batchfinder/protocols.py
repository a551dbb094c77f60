"""The walls as types: what a value must offer to stand in for one of ours.

All are structural. Users pass values; nothing registers itself, nothing is subclassed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, runtime_checkable

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

    def zero_grad(self) -> None:
        """Set every gradient to ``None``."""
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


class Stateful(Protocol):
    """Anything the user names in ``preserve=[...]``."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any) -> Any: ...
