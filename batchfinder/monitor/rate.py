"""The learning rate during an update alone, so that schedulers and checkpoints never see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["RateFactor"]


class RateFactor:
    """Multiplies every group's rate by ``value`` while the optimizer steps, and puts it back.

    A learning-rate scheduler goes on with the rates that it set itself, whatever it computes the
    next one from, and a saved optimizer holds the user's own rates.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], ramp_steps: int) -> None:
        self.value = 1.0
        self._goal = 1.0
        self._by_step = 0.0
        self._ramp_steps = ramp_steps
        self._kept: dict[int, list[Any]] = {}
        self._handles = [
            handle
            for optimizer in optimizers
            for handle in (
                optimizer.register_step_pre_hook(self._raise_rates),
                optimizer.register_step_post_hook(self._put_back),
            )
        ]

    def move_to(self, goal: float) -> None:
        """Fall to ``goal`` at once, or rise to it evenly over the next steps."""
        if goal == self._goal:
            return
        self._goal = goal
        if goal <= self.value or self._ramp_steps < 1:
            self.value, self._by_step = goal, 0.0
        else:
            self._by_step = (goal - self.value) / self._ramp_steps
            self.advance()

    def advance(self) -> None:
        """One step further on the way up."""
        if self._by_step:
            self.value += self._by_step
            if self.value >= self._goal * (1 - 1e-9):
                self.value, self._by_step = self._goal, 0.0

    def close(self) -> None:
        """Take the hooks off the optimizers."""
        for handle in self._handles:
            handle.remove()

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value, "goal": self._goal, "by_step": self._by_step}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value, self._goal = state["value"], state["goal"]
        self._by_step = state["by_step"]

    def _raise_rates(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._put_back(optimizer)  # a step that failed has left them raised
        if self.value != 1.0:
            self._kept[id(optimizer)] = [group["lr"] for group in optimizer.param_groups]
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * self.value

    def _put_back(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        kept = self._kept.pop(id(optimizer), [])
        for group, rate in zip(optimizer.param_groups, kept, strict=False):
            group["lr"] = rate
