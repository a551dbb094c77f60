"""Instability, named once per episode, from losses as they come and looks at the updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from batchfinder.monitor.gradients import Look
from batchfinder.monitor.history import Instability, Kind
from batchfinder.monitor.losses import Finding, LossWatch
from batchfinder.monitor.updates import Episodes, Movement, UpdateWatch
from batchfinder.wording import Caveat

__all__ = ["Alarms"]

_AT_ONCE = 10
"""Losses that are judged together: a device is waited for only then, and on a CPU it is cheaper."""
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
        self._waiting: list[tuple[int, torch.Tensor | float, bool]] = []
        self._is_suspicious = False
        self._recent: list[float] = []
        self._lowest_rate = math.inf
        self._closer_until = -math.inf

    def take_loss(self, step: int, loss: torch.Tensor | float, part: bool) -> None:
        """The loss of ``step``, judged later together with others where it is an ordinary one."""
        number: float | None = None
        if not isinstance(loss, torch.Tensor):
            number = float(loss)
        elif loss.device.type == "cpu":
            number = loss.item() if loss.numel() == 1 else float(loss.detach().float().mean())
        else:
            loss = loss.detach()
        self._waiting.append((step, loss if number is None else number, part))
        # Not "above": a loss that is not a number is no ordinary one either.
        urgent = number is not None and not number <= self._losses.ordinary_up_to
        if urgent or len(self._waiting) >= _AT_ONCE:
            self.read_losses()

    def read_losses(self) -> None:
        """Judge the losses that were taken and not read yet."""
        waiting, self._waiting = self._waiting, []
        values = _numbers([loss for _, loss, _ in waiting])
        self._recent.extend(values)
        for (step, _, part), value in zip(waiting, values, strict=True):
            for finding in self._losses.see(step, value, part=part):
                self._say(finding, step)
        self._is_suspicious = self._losses.suspicious or self._updates.suspicious

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
        self._is_suspicious = self._losses.suspicious or self._updates.suspicious

    def take_gradients(self, step: int, look: Look) -> None:
        """The gradients of one look, where no gradient scaler makes them overflow at times."""
        if look.finite < look.of:
            said = Caveat("monitor.not_finite_gradient", finite=look.finite, of=look.of)
            self._say(Finding(Kind.NOT_FINITE, said), step)

    def wants_closer_look(self, step: int) -> bool:
        """Whether the next updates should be looked at beside the usual looks; seldom true."""
        if not self._is_suspicious or step <= self._closer_until:
            return False
        self._closer_until = step + max(4, self._every // 4)
        return True

    def _say(self, finding: Finding, step: int) -> None:
        if finding.kind is Kind.SPIKE and self._episodes.lasts(Kind.DIVERGING, step):
            return
        if self._episodes.begins(finding.kind, step):
            self._tell(Instability(finding.kind, step, finding.said))


def _numbers(losses: Sequence[torch.Tensor | float]) -> list[float]:
    """The losses as numbers, those on a device with one transfer."""
    tensors = [loss for loss in losses if isinstance(loss, torch.Tensor)]
    if not tensors:
        return [float(loss) for loss in losses]
    device = tensors[0].device
    means = [loss.to(device, torch.float32).mean() for loss in tensors]
    fetched = iter(torch.stack(means).tolist())
    return [next(fetched) if isinstance(loss, torch.Tensor) else float(loss) for loss in losses]
