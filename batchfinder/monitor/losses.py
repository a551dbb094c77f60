"""What the loss alone tells: not finite, spikes, divergence, and no progress.

Numbers in, findings out. Levels are medians and scatters come from the absolute differences of
consecutive losses, so that neither a falling loss nor single outliers count as scatter.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from batchfinder.monitor.history import Kind
from batchfinder.wording import Caveat

__all__ = ["Finding", "LossWatch", "Reference", "Taken", "reference"]

RECENT, WINDOW = 32, 128
"""Losses that give the level, and those whose largest excursion counts as usual."""
SPIKE_SCATTERS, ROW_SCATTERS = 8.0, 2.5
"""Scatters above the level from which one loss is a spike, and the median of a row divergence."""
MATTERS = 0.1
"""A rise below this share of the level, or of what the loss has fallen so far, is no instability:
near zero a loss may well double."""
ROW = 10
"""The loss diverges where the median of so many is elevated."""
SMOOTH = 100
"""Losses averaged to tell a slow rise."""
PATIENCE = 1000
"""Losses after which one that never fell is called stalled."""
_RENEWED = 8
"""Losses after which the reference is renewed at the earliest."""
_FEWEST = 4


class Taken(NamedTuple):
    """The loss of one step; ``part`` where it is that of a piece of the batch only."""

    step: int
    loss: float
    part: bool = False


@dataclass(frozen=True)
class Finding:
    """One instability as a detector sees it, before episodes are told apart."""

    kind: Kind
    said: Caveat


@dataclass(frozen=True)
class Reference:
    """Where losses usually are.

    ``level`` is the median of the recent losses, ``scatter`` the standard deviation of one loss
    about its trend, ``excursion`` how far the largest of the window lies above the level, and
    ``high`` how far its 95th percentile does.
    """

    level: float
    scatter: float
    excursion: float
    high: float

    def spike(self, floor: float) -> float:
        """The loss above which a single one is a spike."""
        return self.level + max(SPIKE_SCATTERS * self.scatter, 2 * self.excursion, floor)

    def elevated(self, floor: float) -> float:
        """The loss above which the median of a row of them is a divergence."""
        return self.level + max(ROW_SCATTERS * self.scatter, self.high, floor)


def reference(losses: Sequence[float]) -> Reference:
    """The reference from recent losses, oldest first; at least two.

    Between two training steps, with cold caches, this is faster without NumPy.
    """
    values = list(losses)
    level = _middle(sorted(values[-RECENT:]))
    jumps = sorted(map(abs, map(operator.sub, values[1:], values)))
    scatter = _middle(jumps) * 1.4826 / math.sqrt(2)
    ordered = sorted(values)
    high, most = ordered[-1 - len(values) // 20], ordered[-1]
    return Reference(level, scatter, most - level, high - level)


def _middle(ordered: Sequence[float]) -> float:
    """The median of sorted numbers."""
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


@dataclass
class LossWatch:
    """Sees every loss in turn; each call says what it gave reason to say.

    The reference, and what averages tell, are renewed once ``renewed_every`` losses came in.
    """

    renewed_every: int = _RENEWED
    _window: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    _row: deque[float] = field(default_factory=lambda: deque(maxlen=ROW))
    _smooth: deque[float] = field(default_factory=lambda: deque(maxlen=SMOOTH))
    _early: list[float] = field(default_factory=list)
    _seen: int = 0
    _renewed: int = 0
    _above: int = 0
    _peak: float = -math.inf
    _usual: Reference | None = None
    _spike_at: float = math.inf
    _elevated_at: float = math.inf
    _last_elevated: int = -_FEWEST
    _best: tuple[float, float] = (math.inf, 0.0)
    _first: float = math.nan
    _stalled_until: int = PATIENCE

    def see_all(self, losses: Sequence[tuple[int, float, bool]]) -> list[tuple[int, Finding]]:
        """Take several (step, loss, part), oldest first; findings with the steps they come from."""
        most = self.ordinary_up_to
        values = [loss for _, loss, part in losses if -math.inf < loss <= most and not part]
        if not losses or len(values) < len(losses):
            return [(each[0], finding) for each in losses for finding in self.see(*each)]
        # one by one they would all be taken without a word
        self._seen += len(values)
        for kept in (self._row, self._window, self._smooth):
            kept.extend(values)
        step = losses[-1][0]
        return [(step, finding) for finding in self._renew()]

    def see(self, step: int, loss: float, part: bool = False) -> list[Finding]:
        """Take the loss of ``step``; ``part`` where it is that of a piece of the batch only."""
        if not math.isfinite(loss):
            said = Caveat("monitor.not_finite_loss", loss=loss, step=step)
            return [Finding(Kind.NOT_FINITE, said)]
        if part:
            return self._of_part(loss)
        self._seen += 1
        if self._usual is None:
            found = self._at_first(loss)
        else:
            found = self._against(self._usual, loss)
            self._smooth.append(loss)
        found.extend(self._renew())
        return found

    def forget(self) -> None:
        """Begin anew, after a change (of the learning rate, say) that may well raise the loss."""
        self._best = (math.inf, 0.0)
        self._smooth.clear()

    @property
    def ordinary_up_to(self) -> float:
        """Losses up to here are taken without a word.

        None are before there is a reference, and while a spike lasts.
        """
        return -math.inf if self._usual is None or self._above else self._elevated_at

    @property
    def suspicious(self) -> bool:
        """Whether losses are high enough for a closer look at the updates."""
        if self._seen - self._last_elevated >= _FEWEST or len(self._row) < _FEWEST:
            return False
        last = sorted(list(self._row)[-_FEWEST:])[_FEWEST // 2]
        return last > self._elevated_at

    def _renew(self) -> list[Finding]:
        if self._seen - self._renewed < self.renewed_every:
            return []
        self._renewed = self._seen
        found = self._slowly() if len(self._smooth) == SMOOTH else []
        if len(self._window) >= RECENT:
            self._usual = usual = reference(self._window)
            floor = MATTERS * max(abs(usual.level), abs(self._first - usual.level))
            self._spike_at, self._elevated_at = usual.spike(floor), usual.elevated(floor)
        return found

    def _at_first(self, loss: float) -> list[Finding]:
        """Too few losses for a scatter: only a large rise in a row is told."""
        self._window.append(loss)
        self._early.append(loss)
        if self._seen == RECENT:
            self._first = median(self._early)
        start = self._early[:3]
        last = self._early[3:][-3:]
        if len(last) < 3 or min(last) <= 2 * max(start) or max(start) <= 0:
            return []
        said = Caveat(
            "monitor.diverging",
            loss=loss,
            level=median(start),
            scatter=max(start) - min(start),
            steps=len(last),
        )
        return [Finding(Kind.DIVERGING, said)]

    def _of_part(self, loss: float) -> list[Finding]:
        """A part of n/2 samples scatters by √2 more; it counts for spikes alone."""
        if self._usual is not None:
            level = self._usual.level
            nearer = level + (loss - level) / math.sqrt(2)
            if nearer > self._spike_at:
                self._above += 1
                self._peak = max(self._peak, loss)
        return []

    def _against(self, usual: Reference, loss: float) -> list[Finding]:
        self._row.append(loss)
        self._window.append(loss)
        found = []
        if loss > self._spike_at:
            self._above += 1
            self._peak = max(self._peak, loss)
        elif self._above:
            if self._above < ROW and loss < self._elevated_at:
                found.append(self._spike(usual))
            self._above, self._peak = 0, -math.inf
        if loss > self._elevated_at:
            self._last_elevated = self._seen
            if len(self._row) == ROW:
                found.extend(self._diverging(usual))
        return found

    def _diverging(self, usual: Reference) -> list[Finding]:
        row = sorted(self._row)[ROW // 2]
        if row <= self._elevated_at:
            return []
        numbers = {"level": usual.level, "scatter": usual.scatter, "steps": ROW}
        return [Finding(Kind.DIVERGING, Caveat("monitor.diverging", loss=row, **numbers))]

    def _spike(self, usual: Reference) -> Finding:
        said = Caveat(
            "monitor.spike",
            loss=self._peak,
            level=usual.level,
            scatter=usual.scatter,
            steps=self._above,
        )
        return Finding(Kind.SPIKE, said)

    def _slowly(self) -> list[Finding]:
        mean, error = self._mean()
        best, best_error = self._best
        if mean < best:
            self._best = (mean, error)
        rise = mean - best
        both = math.hypot(error, best_error)
        fallen = max(abs(best), abs(self._first - best)) if math.isfinite(best) else math.inf
        if rise > max(5 * both, 1.5 * MATTERS * fallen):
            said = Caveat("monitor.drifting", loss=mean, best=best, error=both, steps=SMOOTH)
            return [Finding(Kind.DIVERGING, said)]
        return self._no_progress(mean, error)

    def _mean(self) -> tuple[float, float]:
        """The smoothed loss and its standard error, from means of tens: they allow for memory."""
        smooth = list(self._smooth)
        tens = [sum(smooth[start : start + 10]) / 10 for start in range(0, SMOOTH, 10)]
        mean = sum(tens) / 10
        return mean, math.sqrt(sum([(each - mean) ** 2 for each in tens]) / 90)

    def _no_progress(self, mean: float, error: float) -> list[Finding]:
        if self._seen < self._stalled_until:
            return []
        self._stalled_until = self._seen + PATIENCE
        if mean < self._first - 3 * error:
            self._stalled_until = 2**62  # it has learned something; a plateau later is no fault
            return []
        said = Caveat("monitor.stalled_level", loss=mean, first=self._first, steps=self._seen)
        return [Finding(Kind.STALLED, said)]
