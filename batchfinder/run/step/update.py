"""The update as in the real training: gradients unscaled and clipped, then the optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from batchfinder.errors import InvalidArgument

__all__ = ["Clip", "Updates", "check_clip"]

Clip: TypeAlias = float | Callable[[list[torch.nn.Parameter]], Any] | None
"""The largest norm that gradients may have together, or what changes them in place."""

_CLOSURE = (
    "batchfinder: the step of {name} was called without a closure; where it needs one, pass "
    "train_step= that calls optimizer.step(closure) itself and returns None"
)


def check_clip(clip: Any) -> None:
    """Refuse what is neither a norm nor a function.

    Raises:
        InvalidArgument: saying what was found.
    """
    is_norm = isinstance(clip, int | float) and not isinstance(clip, bool) and clip > 0
    if not (clip is None or callable(clip) or is_norm):
        raise InvalidArgument(
            "expected clip to be the largest norm of the gradients, above 0, or a function "
            f"(parameters) -> None that clips in place; found {clip!r}"
        )


class Updates:
    """One optimizer update after another, and how many of them were clipped.

    Args:
        parameters: what is clipped, where it has a gradient.
        optimizers: stepped in this order.
        scaler: the gradient scaler, if any.
        clip: see ``Clip``.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        optimizers: Sequence[Any],
        scaler: Any,
        clip: Clip,
    ) -> None:
        self._parameters = list(parameters)
        self._optimizers = list(optimizers)
        self._scaler = scaler
        self._clip = clip
        self.counting = False
        self.taken = 0
        self.clipped = 0

    def run(self) -> None:
        """Unscale, clip, step."""
        active = [each for each in self._optimizers if self._scaler is None or has_gradient(each)]
        if self._clip is not None:
            if self._scaler is not None:
                for optimizer in active:
                    self._scaler.unscale_(optimizer)
            self._clip_gradients()
        for optimizer in active:
            try:
                if self._scaler is None:
                    optimizer.step()
                else:
                    self._scaler.step(optimizer)
            except (AssertionError, RuntimeError, TypeError, ValueError) as error:
                if "closure" in str(error) or "'NoneType' object is not callable" in str(error):
                    error.add_note(_CLOSURE.format(name=type(optimizer).__name__))
                raise
        if self._scaler is not None:
            self._scaler.update()
        self.taken += self.counting

    def _clip_gradients(self) -> None:
        reached = [p for p in self._parameters if p.grad is not None]
        if callable(self._clip):
            # norms cost a pass over the gradients each: only where somebody counts
            before = _norm(reached) if self.counting else 0.0
            self._clip(reached)
            if self.counting:
                self.clipped += _norm(reached) < before * (1 - 1e-6)
            return
        assert self._clip is not None
        norm = torch.nn.utils.clip_grad_norm_(reached, self._clip)
        if self.counting:
            self.clipped += float(norm) > self._clip


def has_gradient(optimizer: Any) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def _norm(parameters: Sequence[torch.nn.Parameter]) -> float:
    gradients = [p.grad for p in parameters if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))
