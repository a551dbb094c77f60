"""Instability, named once per episode, from losses as they come and looks at the updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from batchfinder.monitor.look import Look
from batchfinder.monitor.losses import Finding, LossWatch
from batchfinder.monitor.movement import Movement
from batchfinder.monitor.record import Instability, Kind
from batchfinder.monitor.updates import Episodes, UpdateWatch
from batchfinder.wording import Caveat

__all__ = ["Alarms"]

_AT_ONCE = 10
"""Losses that are fetched together from a device, which is waited for only then."""
_HIGHER = 1.5
"""A learning rate raised by this factor may well raise the loss for a while."""


class Alarms:
    """Takes losses and movements; tells each instability when an episode of it begins."""

    def __init__(self, tell: Callable[[Instability], None], every: int) -> None:
        self._tell = tell
        self._every = every
        self._losses = LossWatch()
        self._updates = UpdateWatch()
        self._episodes = Episodes(calm=max(200, 4 * every))
        self._waiting: list[tuple[int, Any, bool]] = []
        self._recent: list[float] = []
        self._lowest_rate = math.inf
        self._closer_until = -math.inf

    def take_loss(self, step: int, loss: Any, part: bool) -> None:
        """The loss of ``step``; one on another device is read later, together with others."""
        if isinstance(loss, torch.Tensor):
            loss = loss.detach()
        self._waiting.append((step, loss, part))
        if len(self._waiting) >= _AT_ONCE or not _elsewhere(loss):
            self.read_losses()

    def read_losses(self) -> None:
        """Judge the losses that were taken and not read yet."""
        waiting, self._waiting = self._waiting, []
        values = _numbers([loss for _, loss, _ in waiting])
        for (step, _, part), value in zip(waiting, values, strict=True):
            self._recent.append(value)
            for finding in self._losses.see(step, value, part=part):
                self._say(finding, step)

    def mean_loss(self) -> float:
        """The mean of the losses since this was asked last; NaN where there is none."""
        recent, self._recent = self._recent, []
        return math.fsum(recent) / len(recent) if recent else math.nan

    def take_movement(self, step: int, moved: Movement, rate: float) -> None:
        """The updates of one look."""
        if rate > _HIGHER * self._lowest_rate:
            self._losses.forget()
            self._lowest_rate = rate
        self._lowest_rate = min(self._lowest_rate, rate)
        for finding in self._updates.see(moved, rate):
            self._say(finding, step)

    def take_gradients(self, step: int, look: Look) -> None:
        """The gradients of one look, where no gradient scaler makes them overflow at times."""
        if look.finite < look.of:
            said = Caveat("monitor.not_finite_gradient", finite=look.finite, of=look.of)
            self._say(Finding(Kind.NOT_FINITE, said), step)

    def wants_closer_look(self, step: int) -> bool:
        """Whether the next updates should be looked at beside the usual looks; seldom true."""
        if not (self._losses.suspicious or self._updates.suspicious) or step <= self._closer_until:
            return False
        self._closer_until = step + max(4, self._every // 4)
        return True

    def _say(self, finding: Finding, step: int) -> None:
        if finding.kind is Kind.SPIKE and self._episodes.lasts(Kind.DIVERGING, step):
            return
        if self._episodes.begins(finding.kind, step):
            self._tell(Instability(finding.kind, step, finding.said))


def _elsewhere(loss: Any) -> bool:
    return isinstance(loss, torch.Tensor) and loss.device.type != "cpu"


def _numbers(losses: Sequence[Any]) -> list[float]:
    """The losses as numbers, with one transfer where all are tensors."""
    if len(losses) < 2 or not all(isinstance(loss, torch.Tensor) for loss in losses):
        return [_number(loss) for loss in losses]
    device = losses[0].device
    means = [loss.to(device, torch.float32).mean() for loss in losses]
    numbers: list[float] = torch.stack(means).tolist()
    return numbers


def _number(loss: Any) -> float:
    if isinstance(loss, torch.Tensor) and loss.numel() != 1:
        return float(loss.float().mean())
    return float(loss)
