"""What the gradients of one step tell: norm, moments and noise scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from batchfinder.formulas import Moments
from batchfinder.monitor.noise import NoiseWindow
from batchfinder.monitor.parts import count_of, cut, why_whole
from batchfinder.noise import EUCLIDEAN, Metric, Sketch, metric_for
from batchfinder.protocols import Batch
from batchfinder.results import NoiseScale
from batchfinder.wording import Caveat

__all__ = ["SIZE", "GradientLook", "GradientReader", "Look", "Scaler", "Seen"]


SIZE = 1024
"""Numbers of one sketch."""


@dataclass(frozen=True)
class Seen:
    """Sketches of the micro-batches' gradients in the metric and as they are, both (k, size)."""

    measured: np.ndarray
    plain: np.ndarray


class GradientReader:
    """Hooks on the parameters for the length of one optimizer step; nothing remains afterwards.

    A hook sees the gradient of one backward before it is added to ``.grad``: before clipping, and
    under data-parallel wrappers before ranks are averaged. Only linear sketches are kept, so that
    a gradient that comes in parts (several losses, re-entrant checkpointing) adds up.
    ``mark`` ends a micro-batch; a forward pass of the model begins another one.
    """

    def __init__(self, model: torch.nn.Module, parameters: Sequence[torch.Tensor]) -> None:
        self._model = model
        self._parameters = parameters
        self._sketch: Sketch | None = None
        self._plain: Sketch | None = None
        self._metric: Metric = EUCLIDEAN
        self._scale: Callable[[], float] = _one
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._measured_rows: list[np.ndarray] = []
        self._plain_rows: list[np.ndarray] = []
        self._divisor = 0.0

    def start(self, metric: Metric, scale: Callable[[], float]) -> None:
        """Read from here on; ``scale`` tells the loss scale when the first gradient comes."""
        self.stop()
        if self._sketch is None:
            self._sketch = Sketch(self._parameters, SIZE)
            self._plain = Sketch(self._parameters, SIZE, seed=1)
        self._metric, self._scale = metric, scale
        self._handles = [
            parameter.register_hook(partial(self._see, index))  # type: ignore[no-untyped-call]  # torch's
            for index, parameter in enumerate(self._parameters)
        ]
        self._handles.append(self._model.register_forward_pre_hook(self._begins))

    def mark(self) -> None:
        """End the micro-batch, if any gradient was seen since the last one ended."""
        if not self._divisor or self._sketch is None or self._plain is None:
            return
        plain = self._plain.finish() / self._divisor
        self._plain_rows.append(plain)
        other = self._metric is not EUCLIDEAN
        self._measured_rows.append(self._sketch.finish() / self._divisor if other else plain)
        self._divisor = 0.0

    def stop(self) -> Seen | None:
        """Remove the hooks; what was seen since ``start``, ``None`` where that is nothing."""
        self.mark()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        measured, plain = self._measured_rows, self._plain_rows
        self._measured_rows, self._plain_rows = [], []
        return Seen(np.stack(measured), np.stack(plain)) if measured else None

    def _begins(self, *_: Any) -> None:
        self.mark()

    def _see(self, index: int, gradient: torch.Tensor) -> None:
        if self._sketch is None or self._plain is None:
            return
        if not self._divisor:
            self._divisor = self._scale()
        gradient = gradient.detach()
        self._plain.add(index, gradient)
        if self._metric is not EUCLIDEAN:
            self._sketch.add(index, self._metric(index, gradient))


def _one() -> float:
    return 1.0


_WHY_WHOLE = {"monitor.batch_norm", "monitor.not_divisible"}
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
        *,
        scaler: Scaler | None,
        split: bool,
    ) -> None:
        self.caveats: dict[str, Caveat] = {}
        self._model, self._optimizers, self._window = model, optimizers, window
        self._scale: Callable[[], float] = _one if scaler is None else scaler.get_scale
        self._split = split
        self._parameters: list[torch.Tensor] = []
        self._reader: GradientReader | None = None
        self._metric: Metric = EUCLIDEAN
        self._looking = False
        self._batches: list[list[int]] = []
        """Of a step looked at: the sizes of the parts of each batch."""
        self._samples = self._passes = 0
        self._passes_before = 1
        self.cut = False
        """Whether the batch was cut for the look alone, so that its last loss is that of a half."""

    def parts(self, batch: Batch, at_least: int, batch_size: int) -> Iterator[tuple[Batch, float]]:
        """``batch`` as (part, share) pairs, in two at a look if nothing else divides the step."""
        if at_least == 1 and not self._looking:
            self._samples += count_of(batch) or batch_size
            self._passes += 1
            return iter(((batch, 1.0),))
        return self._pieces(batch, at_least, batch_size)

    def _pieces(self, batch: Batch, pieces: int, batch_size: int) -> Iterator[tuple[Batch, float]]:
        count = count_of(batch)
        if pieces == 1 and self._looking and self._divides(batch, count):
            pieces, self.cut = 2, True
        parts = [(batch, count or batch_size)] if pieces == 1 else cut(batch, pieces)
        total = sum(size for _, size in parts)
        self._handed_out([size for _, size in parts])
        for part, size in parts:
            yield part, size / total
            if self._looking and self._reader is not None:
                self._reader.mark()

    def took(self, samples: int) -> None:
        """A backward pass over so many samples has ended, of a batch that ``parts`` never saw."""
        self._handed_out([samples])
        if self._looking and self._reader is not None:
            self._reader.mark()

    def start(self, parameters: Sequence[torch.Tensor]) -> None:
        """Read the gradients of the next step."""
        if self._reader is None or [*map(id, parameters)] != [*map(id, self._parameters)]:
            self._parameters = list(parameters)
            self._reader = GradientReader(self._model, self._parameters)
        self._metric = metric_for(self._parameters, self._optimizers)
        self._reader.start(self._metric, self._scale)
        self._looking = True

    def stop(self) -> None:
        """Remove every hook."""
        if self._reader is not None:
            self._reader.stop()
        self._looking = False

    def step_ended(self, batch_size: int) -> int:
        """Samples of the step that ended; ``look`` follows, where it was looked at."""
        samples = self._samples or batch_size
        self._passes_before = self._passes
        self._samples = self._passes = 0
        return samples

    def look(self, step: int, samples: int) -> Look | None:
        """What was seen of the step that ended; ``None`` where it was not looked at."""
        batches, self._batches, self.cut = self._batches, [], False
        if not self._looking or self._reader is None:
            return None
        self._looking = False
        return self._conclude(step, self._reader.stop(), batches, samples)

    def _handed_out(self, sizes: list[int]) -> None:
        self._samples += sum(sizes)
        self._passes += 1
        if self._looking:
            self._batches.append(sizes)

    def _divides(self, batch: Batch, count: int | None) -> bool:
        if self._passes_before > 1 or self._passes or not self._window.alone:
            return False
        if not self._split:
            self._say(Caveat("monitor.batch_norm"))
            return False
        why = why_whole(batch, 2)
        if why:
            self._say(Caveat("monitor.not_divisible", found=why))
        return not why and count is not None

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
