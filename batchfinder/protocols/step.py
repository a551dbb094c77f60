"""One training step of the user's, and what it is run with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from batchfinder.protocols.device import MemoryBackend
from batchfinder.protocols.ranks import Ranks
from batchfinder.protocols.source import Batch, BatchSource
from batchfinder.rates import GroupRate, OptimizerFamily, UpdateEffect
from batchfinder.wording import Caveat

if TYPE_CHECKING:
    import torch

__all__ = ["Setup", "TrainStep", "UpdateWatch", "WholeStep"]


class TrainStep(Protocol):
    """One training step of the user, split into forward-backward and update."""

    @property
    def device(self) -> torch.device: ...
    @property
    def ranks(self) -> Ranks:
        """Who takes this step together."""
        ...

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
    def optimizer_family(self) -> OptimizerFamily:
        """What decides the learning-rate rule."""
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

    @property
    def made(self) -> int:
        """How many updates wrote to a parameter."""
        ...

    @property
    def in_a_row(self) -> int:
        """How many updates in a row, up to the latest, wrote to a parameter."""
        ...

    def effect(self) -> UpdateEffect:
        """Which of rate, parameters and optimizer state have moved since."""
        ...


class WholeStep(TrainStep, Protocol):
    """A ``TrainStep`` with all that setting a call up, predicting and reporting ask of it."""

    @property
    def assumptions(self) -> tuple[Caveat, ...]:
        """What had to be inferred; complete after the first ``forward_backward``."""
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
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Settings that change times and memory, by name, where they are on."""
        ...

    @property
    def has_looked(self) -> bool:
        """Whether ``look`` has run."""
        ...

    def look(self, batch: Batch, *, forward_backward: Callable[[Batch], Any] | None = None) -> None:
        """See which parameters the gradients of ``batch`` reach; state is the caller's to put back.

        Optimizer state is then laid out for those alone. ``forward_backward`` is used in place of
        the step's own, where given.
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


S_co = TypeVar("S_co", bound=TrainStep, covariant=True)


@dataclass(frozen=True)
class Setup(Generic[S_co]):
    """A training step, where its batches come from, and the memory that it runs in."""

    step: S_co
    source: BatchSource
    memory: MemoryBackend
