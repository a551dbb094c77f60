"""How often a monitor looks, and what it tells once per episode."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from batchfinder.monitor.gradients import Look
from batchfinder.monitor.history import Instability, Kind
from batchfinder.monitor.losses import Exchange, Finding, LossWatch
from batchfinder.monitor.pricing import FEWEST_LOOKS
from batchfinder.monitor.updates import Episodes, Movement, UpdateWatch
from batchfinder.protocols import Clock
from batchfinder.wording import Caveat

__all__ = ["UPDATES", "USUAL", "Alarms", "Pace"]


UPDATES = 3
"""Consecutive updates of one look."""
USUAL = 47
"""Steps from one look to the next before the cost of one is known. A prime, so that what a training
does at every hundredth step (validation, a checkpoint) is not taken for the cost of a look."""
SHORTEST, LONGEST = 10, 1000
"""The fewest and the most steps from one look to the next."""
SHARE = 0.015
"""Of the training's time, what looks may take; below 2%, as medians are not exact."""
_REMEMBERED = 9


@dataclass
class Pace:
    """Spaces looks so that their extra time stays at ``SHARE`` of that of the steps so far.

    ``every`` steps where that is given, and then no clock is read. Else the extra time of a look
    is what its steps took beyond as many ordinary ones. Both are medians over the last few, so
    that neither a validation between two steps nor the first look, which sets up what later ones
    use, counts as the price of all. The first ``FEWEST_LOOKS`` come after ``USUAL`` steps each
    whatever they take, so that there is a noise scale, and later ones after ``LONGEST`` at most.
    Ranks go by the slowest among them.
    """

    every: int | None
    clock: Clock
    ranks: Exchange
    _looks: int = 0
    _free_since: tuple[int, float] | None = None
    _began: tuple[int, float] = (0, 0.0)
    _ordinary: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _extra: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    @property
    def usual(self) -> int:
        """Steps from one look to the next, as far as they are known beforehand."""
        return USUAL if self.every is None else self.every

    @property
    def updates(self) -> int:
        """Updates that a look takes in: fewer where looks follow one another closely."""
        return max(1, min(UPDATES, self.usual - 1))

    def begins(self, step: int) -> None:
        """A look begins after ``step``; everything before it is done on the device."""
        if self.every is not None:
            return
        now = self.clock()
        if self._free_since is not None and step > self._free_since[0]:
            since, started = self._free_since
            self._ordinary.append((now - started) / (step - since))
        self._began = (step, now)

    def ends(self, look: int, step: int) -> int:
        """A look at step ``look`` is over after ``step``; the step of the next one."""
        if self.every is not None:
            return look + self.every
        now = self.clock()
        self._free_since = (step, now)
        if not self._ordinary:
            return look + USUAL
        self._looks += 1
        usual = statistics.median(self._ordinary)
        self._extra.append(now - self._began[1] - (step - self._began[0]) * usual)
        steps = max(statistics.median(self._extra), 0.0) / usual if usual > 0 else 0.0
        return look + self._gap(step, self._slowest(steps))

    def _gap(self, step: int, price: float) -> int:
        """Steps to the next look, each of which takes the time of ``price`` steps."""
        paid = math.ceil(max(price, (self._looks + 1) * price - SHARE * step) / SHARE)
        most = USUAL if self._looks < FEWEST_LOOKS else LONGEST
        return min(max(paid, SHORTEST), most)

    def _slowest(self, price: float) -> float:
        if self.ranks.alone:
            return price
        return float(self.ranks.gather(np.array([[price]])).max())


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
