"""Instability, named once per episode, from losses as they come and looks at the updates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.monitor.device_losses import DeviceLosses, transfer_from
from batchfinder.monitor.gradients import Look
from batchfinder.monitor.history import Instability, Kind
from batchfinder.monitor.losses import PATIENCE, Finding, LossWatch
from batchfinder.monitor.pace import Ordinary, Pace
from batchfinder.monitor.updates import Episodes, Movement, UpdateWatch
from batchfinder.wording import Caveat

__all__ = ["TOGETHER", "Alarms"]

TOGETHER = 32
"""Ordinary losses that are judged together."""
_CALM = 200
"""Steps without a kind of instability after which one is new; four looks, where that is longer, for
kinds that are seen at looks."""
_AT_LOOKS = {Kind.NOT_FINITE, Kind.OSCILLATING, Kind.ERRATIC}
_NEVER = -math.inf
_HIGHER = 1.5
"""A learning rate raised by this factor may well raise the loss for a while."""


class Alarms:
    """Takes losses and movements; tells each instability when an episode of it begins."""

    def __init__(self, tell: Callable[[Instability], None], pace: Pace, usual: Ordinary) -> None:
        self.told: list[Instability] = []
        """What was told so far."""
        self._tell = tell
        self._pace = pace
        self._losses = LossWatch()
        self._updates = UpdateWatch()
        self._episodes = Episodes(self._calm)
        self._usual = usual
        self._on_device = DeviceLosses(transfer_from)
        self._is_suspicious = False
        self._recent: list[float] = []
        self._lowest_rate = math.inf
        self._closer_until = _NEVER

    def take_loss(self, step: int, loss: torch.Tensor | float, part: bool) -> bool:
        """Take the loss of ``step``; whether losses were judged now.

        Ordinary ones are judged ``TOGETHER``, one that is high or not finite at once; those on a
        device when they have come from there.
        """
        if isinstance(loss, torch.Tensor):
            if not loss.is_cpu:
                return self._take_from_device(step, loss, part)
            loss = loss.item() if loss.ndim == 0 else float(loss.detach().float().mean())
        if type(loss) is not float:
            loss = _number(loss)
        usual = self._usual
        usual.losses.append((step, loss, part))
        if _NEVER < loss <= usual.up_to and len(usual.losses) < TOGETHER:
            return False
        self._judge()
        return True

    def _take_from_device(self, step: int, loss: torch.Tensor, part: bool) -> bool:
        self._on_device.take(step, loss, part)
        arrived = self._on_device.arrived()
        usual = self._usual
        usual.losses += arrived
        most = usual.up_to
        if len(usual.losses) < TOGETHER and all(_NEVER < each.loss <= most for each in arrived):
            return False
        self._judge()
        return True

    def read_losses(self) -> None:
        """Judge all losses that were taken and not judged yet."""
        self._usual.losses += self._on_device.all()
        if self._usual.losses:
            self._judge()

    def _judge(self) -> None:
        losses, self._usual.losses = self._usual.losses, []
        self._recent += [loss for _, loss, _ in losses]
        for step, finding in self._losses.see_all(losses):
            self._say(finding, step)
        self._usual.up_to = self._losses.ordinary_up_to
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

    @property
    def suspicious(self) -> bool:
        """Whether a closer look may be wanted after any of the next steps."""
        return self._is_suspicious

    def wants_closer_look(self, step: int) -> bool:
        """Whether the next updates should be looked at beside the usual looks; seldom true."""
        if not self._is_suspicious or step <= self._closer_until:
            return False
        self._closer_until = step + max(4, self._pace.usual // 4)
        return True

    def _calm(self, kind: Kind) -> int:
        seldom = max(_CALM, 4 * self._pace.longest)
        if kind is Kind.STALLED:
            return max(seldom, 2 * PATIENCE)
        return seldom if kind in _AT_LOOKS else _CALM

    def _say(self, finding: Finding, step: int) -> None:
        if finding.kind is Kind.SPIKE and self._episodes.lasts(Kind.DIVERGING, step):
            return
        if self._episodes.begins(finding.kind, step):
            self.told.append(Instability(finding.kind, step, finding.said))
            self._tell(self.told[-1])


def _number(loss: Any) -> float:
    """``loss`` as a number.

    Raises:
        InvalidArgument: where it is none.
    """
    try:
        return float(loss)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            "expected the loss of the step as a tensor, a number or None; found "
            f"{type(loss).__name__}: pass monitor.step the loss alone"
        ) from error
