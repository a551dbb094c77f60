"""What the gradients of one step tell: norm, moments and noise scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from batchfinder.formulas import Moments
from batchfinder.monitor.gradient_reader import SIZE, GradientReader, Seen, one
from batchfinder.monitor.noise import NoiseWindow
from batchfinder.monitor.pace import Ordinary
from batchfinder.monitor.parts import WHOLE, count_of, cut, has_list_of, why_whole
from batchfinder.noise import EUCLIDEAN, Metric, metric_for
from batchfinder.protocols import Batch
from batchfinder.results import NoiseScale
from batchfinder.wording import Caveat

__all__ = ["GradientLook", "Look", "Scaler"]

_WHY_WHOLE = {"monitor.batch_norm", "monitor.not_divisible", "monitor.rows"}
"""Caveats that say already why a step has one backward pass alone."""


class Scaler(Protocol):
    """What is asked of a gradient scaler."""

    def get_scale(self) -> float: ...


@dataclass(frozen=True)
class Look:
    """What the gradients of one step told. ``finite`` of ``of`` micro-batches' gradients are."""

    gradient_norm: float = math.nan
    moments: Moments | None = None
    noise_scale: NoiseScale | None = None
    finite: int = 0
    of: int = 0


class GradientLook:
    """Hands out batches, whole or in parts, and reads the gradients of the steps looked at."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        window: NoiseWindow,
        usual: Ordinary,
        *,
        scaler: Scaler | None,
        split: bool,
    ) -> None:
        self.caveats: dict[str, Caveat] = {}
        self._model, self._optimizers, self._window = model, optimizers, window
        self._scale: Callable[[], float] = one if scaler is None else scaler.get_scale
        self._split = split
        self._parameters: list[torch.Tensor] = []
        self._reader: GradientReader | None = None
        self._metric: Metric = EUCLIDEAN
        self._usual = usual
        self._whole_after = 0
        """Of a batch left whole at a look: backward passes of the step before."""
        self._batches: list[list[int]] = []
        """Of a step looked at: the sizes of the parts of each batch."""
        self.cut = False
        """Whether the batch was cut for the look alone, so that its last loss is that of a half."""

    def parts(self, batch: Batch, at_least: int, batch_size: int) -> Iterator[tuple[Batch, float]]:
        """``batch`` as (part, share) pairs, in two at a look if nothing else divides the step."""
        if at_least != 1 or self._usual.looking:
            return self._pieces(batch, at_least, batch_size)
        self._usual.samples += self._count(batch, batch_size)
        self._usual.passes += 1
        return iter(((batch, WHOLE),))

    def _pieces(self, batch: Batch, pieces: int, batch_size: int) -> Iterator[tuple[Batch, float]]:
        if self._usual.looking and self._reader is not None and self._reader.forget_if_zeroed():
            self._batches, self._usual.samples, self._usual.passes = [], 0, 0
        if pieces == 1 and self._usual.looking and self._divides(batch, batch_size):
            pieces, self.cut = 2, True
        whole = [(batch, self._count(batch, batch_size))]
        parts = whole if pieces == 1 else cut(batch, pieces)
        total = sum(size for _, size in parts)
        self._handed_out([size for _, size in parts])
        for part, size in parts:
            if self._usual.looking and self._reader is not None:
                self._reader.in_part = True
            yield part, size / total
            if self._usual.looking and self._reader is not None:
                self._reader.in_part = False
                self._reader.mark()

    def _count(self, batch: Batch, batch_size: int) -> int:
        """Samples in ``batch``: its rows, unless it is known to be otherwise."""
        rows = count_of(batch)
        if rows == batch_size:
            self._usual.rows_are_samples = True
            return batch_size
        is_known = self._usual.rows_are_samples or not has_list_of(batch, batch_size)
        return rows if rows and is_known else batch_size

    def took(self, samples: int) -> None:
        """A backward pass over so many samples has ended, of a batch that ``parts`` never saw."""
        self._usual.rows_are_samples = True  # the caller has counted them
        self._handed_out([samples])
        if self._usual.looking and self._reader is not None:
            self._reader.mark()

    def start(self, parameters: Sequence[torch.Tensor]) -> None:
        """Read the gradients of the next step."""
        if self._reader is None or [*map(id, parameters)] != [*map(id, self._parameters)]:
            self._parameters = list(parameters)
            self._reader = GradientReader(self._model, self._parameters)
        self._metric = metric_for(self._parameters, self._optimizers)
        self._reader.start(self._metric, self._scale)
        self._usual.looking, self._whole_after = True, 0

    def stop(self) -> None:
        """Remove every hook."""
        if self._reader is not None:
            self._reader.stop()
        self._usual.looking = False

    def look(self, step: int, samples: int) -> Look | None:
        """What was seen of the step that ended; ``None`` where it was not looked at."""
        batches, self._batches, self.cut = self._batches, [], False
        if not self._usual.looking or self._reader is None:
            return None
        self._usual.looking = False
        return self._conclude(step, self._reader.stop(), batches, samples)

    def _handed_out(self, sizes: list[int]) -> None:
        self._usual.samples += sum(sizes)
        self._usual.passes += 1
        if self._usual.looking:
            self._batches.append(sizes)

    def _divides(self, batch: Batch, batch_size: int) -> bool:
        self._whole_after = 0 if self._usual.passes else self._usual.passes_before
        if self._usual.passes_before > 1 or self._usual.passes or not self._window.alone:
            return False
        if not self._split:
            self._say(Caveat("monitor.batch_norm"))
            return False
        if why := why_whole(batch, 2):
            self._say(Caveat("monitor.not_divisible", found=why))
            return False
        rows = count_of(batch)
        if rows != batch_size and not self._usual.rows_are_samples:
            self._say(Caveat("monitor.rows", rows=rows, samples=batch_size))
            return False
        return True

    def _conclude(
        self, step: int, seen: Seen | None, batches: list[list[int]], samples: int
    ) -> Look | None:
        found = 0 if seen is None else len(seen.plain)
        sizes, factors = _weights(batches, found, samples)
        if seen is None or len(sizes) != found:
            self._say(Caveat("monitor.not_counted", step=step, found=found, expected=len(sizes)))
            self._window.add(step, [], np.empty((0, SIZE)), self._metric.name)
            return None
        if found < 2 and self._window.alone and not _WHY_WHOLE & self.caveats.keys():
            if self._reader is not None and self._reader.taken_anew:
                self._say(Caveat("monitor.taken_anew"))
            elif self._whole_after > 1:
                self._say(Caveat("monitor.irregular", step=step, before=self._whole_after))
            else:
                self._say(Caveat("monitor.one_backward"))
        rows = seen.measured * factors[:, None]
        moments = self._window.add(step, sizes, rows, self._metric.name)
        mean = np.average(seen.plain * factors[:, None], axis=0, weights=sizes)
        return Look(
            gradient_norm=float(np.linalg.norm(mean)),
            moments=moments,
            noise_scale=self._window.noise_scale(round(samples / found)),
            finite=int(np.isfinite(rows).all(axis=1).sum()),
            of=found,
        )

    def _say(self, caveat: Caveat) -> None:
        self.caveats.setdefault(caveat.code, caveat)


def _weights(batches: list[list[int]], found: int, samples: int) -> tuple[list[float], np.ndarray]:
    """Sizes of the micro-batches, and what their gradients are multiplied by to be means.

    The loss of a part is multiplied by its share of its batch; several batches per step are taken
    to be divided by their number. Micro-batches that were not handed out count alike.
    """
    if not batches:
        return [samples / max(found, 1)] * found, np.full(found, float(found))
    sizes = [float(size) for batch in batches for size in batch]
    shares = [size / sum(batch) / len(batches) for batch in batches for size in batch]
    return sizes, 1 / np.asarray(shares)
