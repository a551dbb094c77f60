"""One training step of the user's, and the processes that take it together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from batchfinder.protocols.source import Batch
from batchfinder.rates import GroupRate, UpdateEffect
from batchfinder.wording import Caveat

if TYPE_CHECKING:
    import torch

__all__ = ["RankGroup", "Ranks", "TrainStep", "UpdateWatch", "WholeStep"]


T = TypeVar("T")


class Ranks(Protocol):
    """The ranks of one call under way: what they tell each other, and how they stay together.

    Everything travels as one kind of message, so that a rank in trouble needs one message, whatever
    the others are about to exchange. Every rank sends the same messages in the same order.
    """

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def alone(self) -> bool:
        """Whether there is one process, which sends no messages."""
        ...

    @property
    def replicas(self) -> int:
        """How many ranks train on samples of their own.

        Fewer than ``size`` where layers or sequences are split among ranks.
        """
        ...

    @property
    def waited_seconds(self) -> float:
        """How long this rank has waited for the others' messages."""
        ...

    @property
    def ran_out(self) -> int:
        """How often memory ran out on this rank."""
        ...

    def tell(self, where: str, value: T) -> list[T]:
        """Every rank's value, in order of rank; ``where`` is what is done, the same on all.

        Raises:
            RanksNotTogether: where another rank is somewhere else, or gives no answer.
            PeerFailed: where another rank has ended with an error.
            torch.OutOfMemoryError: where memory ran out on another rank.
        """
        ...

    def together(self, where: str) -> AbstractContextManager[None]:
        """A piece of work that all ranks leave alike: all well, all out of memory, all failed."""
        ...

    def guarded(self, where: str, mend: Callable[[], None] = ...) -> AbstractContextManager[None]:
        """Work whose error all hear of, at their next message; ``mend`` puts this rank right."""
        ...

    def gate(self) -> AbstractContextManager[Any]:
        """Inside, no collective begins before all ranks have said that they are well."""
        ...

    @property
    def is_gated(self) -> bool:
        """Whether ``gate`` asks: not inside ``ungated``."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether the ranks have parted, so that nothing can be told any more."""
        ...

    def ungated(self) -> AbstractContextManager[None]:
        """Inside, collectives begin without asking the others, so that they can be timed."""
        ...

    def clock(self) -> float:
        """Seconds, the same on all ranks: between two readings those of the slowest rank."""
        ...

    def left_with(self, error: BaseException) -> None:
        """This rank leaves the call with an error of its own: the others are told, once."""
        ...


class RankGroup(Protocol):
    """Which processes search together; met anew for every call."""

    def meet(self, described: Mapping[str, str], *, replicas: int | None = None) -> Ranks:
        """Wait for all ranks to make the same call.

        Args:
            described: what must be the same on all ranks, by name.
            replicas: ranks with samples of their own, as the wrappers of the model tell it.

        Raises:
            RanksNotTogether: where a rank does not come, or makes another call.
        """
        ...


class TrainStep(Protocol):
    """One training step of the user's, cut where accumulation cuts it."""

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
