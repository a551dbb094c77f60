"""What updates did: whether parameters and state moved, at the rate that was set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import torch

from batchfinder.rates import UpdateEffect
from batchfinder.run.fingerprint import fingerprint
from batchfinder.run.step.optimizers import inner_optimizer, state_tensors
from batchfinder.run.step.rates import Rates
from batchfinder.run.step.update import Updates
from batchfinder.run.torch_internals.compiler import is_compiled_function
from batchfinder.run.torch_internals.tensors import version_of

__all__ = ["Watch"]


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
