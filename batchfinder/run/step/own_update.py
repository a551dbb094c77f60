"""What a call of the user's step did by itself: whether it ran backward, whether it updated."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from batchfinder.errors import InvalidArgument, NothingToTrain, UnknownLoss
from batchfinder.protocols import Clock
from batchfinder.run.fingerprint import fingerprint
from batchfinder.run.torch_internals.tensors import version_of

__all__ = ["Did", "Sight", "check_every_call"]

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
