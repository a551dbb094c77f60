"""What a call of the user's step did: ran backward, updated, moved parameters and state."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch

from batchfinder.errors import InvalidArgument, NothingToTrain, UnknownLoss
from batchfinder.protocols import Clock
from batchfinder.rates import UpdateEffect
from batchfinder.run.step.optimizers import inner_optimizer, state_tensors
from batchfinder.run.step.update import Rates, Updates
from batchfinder.run.torch_internals.compiler import is_compiled_function
from batchfinder.run.torch_internals.tensors import dense_parts, version_of

__all__ = ["Did", "Sight", "Watch", "check_every_call", "fingerprint"]


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_AT_ONCE = 1 << 20
"""Elements summed at once: some kernels make a wide copy of what they sum."""


def fingerprint(tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
    """The sums of the tensors' bits, taken as whole numbers: another one says that bits changed.

    Two different tensors have the same sum by an accident of about one in 2^32.
    """
    sums = [_sum(part) for tensor in tensors for part in dense_parts(tensor.detach())]
    return tuple(int(each) for each in sums)


def _sum(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta or not tensor.numel():
        return torch.zeros((), dtype=torch.int64)
    plain = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    words = plain.view(_WORDS[plain.element_size()]).reshape(-1)
    return torch.stack([part.sum(dtype=torch.int64) for part in torch.split(words, _AT_ONCE)]).sum()


MOST_CALLS = 64
LONGEST_SECONDS = 10.0
"""A step that has updated once, or never, is looked at no longer than this."""


@dataclass(frozen=True)
class Did:
    """What one call did: whether parameters changed and gradients were computed.

    ``by_itself``: whether nothing of this was left to the caller.
    """

    updated: bool
    ran_backward: bool
    by_itself: bool = True


class Sight:
    """Parameters and gradients as they are now, to be compared with what a call leaves.

    Args:
        parameters: what is trained.
        by_value: whether values are compared too. Versions cost nothing, but an update through
            ``.data`` changes none.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], *, by_value: bool) -> None:
        self._parameters = parameters
        self._versions = [version_of(parameter) for parameter in parameters]
        self._gradients = [_Seen(parameter.grad) for parameter in parameters]
        self._by_value = by_value
        self._values = fingerprint(parameters) if self._by_value else ()

    @property
    def updated(self) -> bool:
        """Whether a parameter has changed."""
        if [version_of(parameter) for parameter in self._parameters] != self._versions:
            return True
        return self._by_value and fingerprint(self._parameters) != self._values

    @property
    def ran_backward(self) -> bool:
        """Whether a gradient was made or added to."""
        return any(
            parameter.grad is not None and not before.is_still(parameter.grad)
            for parameter, before in zip(self._parameters, self._gradients, strict=True)
        )


class _Seen:
    """A gradient as it was; not kept alive, and not taken for a new one at the same address."""

    def __init__(self, gradient: torch.Tensor | None) -> None:
        self._gradient = None if gradient is None else weakref.ref(gradient)
        self._version = None if gradient is None else version_of(gradient)

    def is_still(self, gradient: torch.Tensor) -> bool:
        same = self._gradient is not None and self._gradient() is gradient
        return same and version_of(gradient) == self._version


def check_every_call(
    first: Did, again: Callable[[], Did], *, clock: Clock = time.monotonic
) -> None:
    """Refuse a step that updates only at every k-th of its own calls, or never.

    A gradient scaler of the step's own leaves out its first updates and none after them; a part
    of a model that is trained now and then sees no backward in between. Both may pass.

    Args:
        first: what the first call did.
        again: calls the step once more.
        clock: seconds.

    Raises:
        InvalidArgument: where gradients are accumulated over several calls, with their number.
        UnknownLoss: where backward ran and no update followed.
        NothingToTrain: where neither was seen.
    """
    calls, started = [first], clock()
    while sum(did.updated for did in calls) < 2:
        if len(calls) >= MOST_CALLS or clock() - started >= LONGEST_SECONDS:
            break
        calls.append(again())
    updates = [number for number, did in enumerate(calls) if did.updated]
    if not updates:
        _refuse_no_update(calls)
    between = calls[updates[0] + 1 : updates[1] if len(updates) > 1 else None]
    first_late = updates[0] > 0 and calls[0].ran_backward
    if between and all(did.ran_backward for did in between) and (len(updates) > 1 or first_late):
        known = len(updates) > 1
        _refuse_accumulation(len(between) + 1 if known else max(updates[0], len(between)), known)


def _refuse_accumulation(count: int, is_known: bool) -> None:
    raise InvalidArgument(
        "expected a train_step that updates at every call, or that leaves backward and update to "
        "batchfinder; found one that accumulates gradients over "
        f"{'' if is_known else 'at least '}{count} calls: return the loss of one "
        "micro-batch before backward, and pass optimizer=. "
        "Accumulation is then part of the search, and base_batch_size= is the number of samples "
        f"per update that you use now ({count} times the loader's batch size)"
    )


def _refuse_no_update(calls: Sequence[Did]) -> None:
    count = f"{len(calls)} call{'s' * (len(calls) > 1)}"
    if any(did.ran_backward for did in calls):
        raise UnknownLoss(
            "expected a loss with its graph, or a step that also updates; found one that ran "
            f"backward and no update in {count}: return the loss before backward (under "
            "Accelerate and Fabric in place of accelerator.backward(loss) or "
            "fabric.backward(loss)), or update in the step too and return None or loss.detach()"
        )
    raise NothingToTrain(
        "expected a loss that depends on a trained parameter, or a step that updates; found one "
        f"that returned a loss without a graph and changed no parameter in {count}: look for "
        "detach(), no_grad() or .item() in the computation, or for frozen parameters"
    )


class Watch:
    """Looks at parameters, state and rates from when it is entered; ``effect`` tells.

    An optimizer's own step is seen through its hooks, those of a wrapper's inner optimizer
    included; one that is compiled gets none, since a hook would have it compiled again.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        optimizers: Sequence[Any],
        rates: Rates,
        updates: Updates,
    ) -> None:
        self._parameters = parameters
        self._optimizers = list(optimizers)
        self._inner = [inner_optimizer(each) for each in optimizers]
        self._rates = rates
        self._updates = updates
        self._handles: list[Any] = []
        self._taken = self._calls = 0
        self.made = self.in_a_row = 0
        self._versions: list[int] = []

    def __enter__(self) -> Self:
        self._rates.forget()
        self._updates.counting, self._updates.taken, self._updates.clipped = True, 0, 0
        self._before = fingerprint(self._parameters), self._state()
        self._versions = self._versions_now()
        if self._inner and all(map(_takes_hooks, self._inner)):
            self._handles = [each.register_step_pre_hook(self._stepping) for each in self._inner]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._updates.counting = False
        for handle in self._handles:
            handle.remove()

    def _stepping(self, optimizer: Any, *_: Any) -> None:
        self._taken += optimizer is self._inner[0]
        self._rates.look()

    def called(self) -> None:
        """One step that updates by itself has run."""
        self._calls += 1
        if not self._handles:
            self._rates.look()
        self.updated()

    def updated(self) -> None:
        """An update was asked for: note whether it was made."""
        now = self._versions_now()
        is_made, self._versions = now != self._versions, now
        self.made += is_made
        self.in_a_row = self.in_a_row + 1 if is_made else 0

    def _versions_now(self) -> list[int]:
        return [version_of(parameter) for parameter in self._parameters]

    @property
    def updates(self) -> int:
        """How often an update was asked for since it was entered."""
        return self._updates.taken + self._calls

    def effect(self) -> UpdateEffect:
        """What happened since it was entered."""
        self._rates.look()
        parameters, state = fingerprint(self._parameters), self._state()
        moved = parameters != self._before[0]
        return UpdateEffect(
            updates=self.updates,
            clipped=self._updates.clipped,
            parameters_moved=moved,
            state_moved=state != self._before[1] if state or self._before[1] else None,
            rate_kept=not self._rates.overwritten,
            steps_taken=self._taken if self._handles else None,
            made=self.made if self.made or not moved else None,
            wrapper=type(self._optimizers[0]).__name__ if self._optimizers else "",
        )

    def _state(self) -> tuple[Any, ...]:
        numbers = (_numbers(state) for each in self._inner for state in each.state.values())
        return (*fingerprint(state_tensors(self._inner)), *numbers)


def _takes_hooks(optimizer: Any) -> bool:
    step = vars(optimizer).get("step", type(optimizer).step)
    return isinstance(optimizer, torch.optim.Optimizer) and not is_compiled_function(step)


def _numbers(state: Any) -> tuple[Any, ...]:
    values: Iterable[Any] = state.values() if hasattr(state, "values") else (state,)
    return tuple(value for value in values if isinstance(value, int | float))
