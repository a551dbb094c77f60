"""What makes the noise scale wrong or meaningless, looked for before it is measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from batchfinder.errors import CannotBuildBatch, OutOfTime
from batchfinder.formulas import mean_loss_ratio
from batchfinder.meter import unmetered
from batchfinder.noise.sampling import Allowed, any_size, never
from batchfinder.protocols import Advance, BatchSource, TrainStep
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.run.randomness import kept_with
from batchfinder.run.torch_internals.objects import BATCH_NORMS, DROPOUTS
from batchfinder.wording import Caveat

NORM_BATCH = 32
"""From this micro-batch on, batch norm changes the noise scale by less than a tenth."""

_HALF = 8
"""Samples whose loss is compared with that of as many others, where so few are allowed."""

_FARTHEST = 512
"""And at most, where not."""

_SMALLEST_HALF = 3  # of 2, a contrastive loss doubles as a sum does: log 4 / log 2
_REPEATS = 4


@dataclass(frozen=True)
class Hazards:
    """What was found. ``refusal`` is the reason why no noise scale can be given, if there is."""

    batch_norm: bool = False
    dropout: bool = False
    sum_reduced: bool = False
    refusal: Caveat | None = None

    def said(self, size: int) -> list[Caveat]:
        """What to say beside a noise scale measured with micro-batches of ``size``."""
        said: list[Caveat] = []
        if self.sum_reduced:
            said.append(Caveat("noise.sum_reduced"))
        if self.batch_norm:
            code = "noise.batch_norm_small" if size < NORM_BATCH else "noise.batch_norm"
            said.append(Caveat(code, size=size))
        if self.dropout:
            said.append(Caveat("noise.dropout"))
        return said


def look_for_hazards(
    step: TrainStep,
    source: BatchSource,
    seed: int = 0,
    most: int | None = None,
    *,
    allowed: Allowed = any_size,
    advance: Advance = unmetered,
    out_of_time: Callable[[], bool] = never,
) -> Hazards:
    """Look at the modules, and at the loss of a batch beside its halves', at most ``most``.

    Args:
        step: the training step; its gradients are dropped, its weights stay.
        source: whose order is rewound.
        seed: which samples are taken.
        most: samples in the whole batch, unless no such size is allowed.
        allowed: which sizes may reach the step; a larger batch is taken where none so small may.
        advance: told of the samples.
        out_of_time: asked between two batches; once true, the loss is not judged.
    """
    modules = [each for each in modules_of(step) if each.training]
    found = Hazards(
        batch_norm=any(isinstance(each, BATCH_NORMS) for each in modules),
        dropout=any(isinstance(each, DROPOUTS) and each.p > 0 for each in modules),
    )
    half = half_size(source, most, allowed)
    if half < _SMALLEST_HALF:
        return found
    ratio_at = partial(loss_ratio, step, source, seed, advance=advance, out_of_time=out_of_time)
    ratio = ratio_at(half)
    if ratio is None or abs(ratio - 1) <= 0.05:
        return found
    if abs(ratio - 2) <= 0.05:
        # of a loss over pairs the ratio may be 2 at one size: a sum's is so at every size
        smaller = half_size(source, max(half, 4), allowed)
        again = ratio_at(smaller) if smaller < half else ratio
        if again is not None and abs(again - 2) <= 0.05:
            return replace(found, sum_reduced=True)
    return replace(found, refusal=Caveat("noise.coupled", ratio=ratio))


def half_size(source: BatchSource, most: int | None, allowed: Allowed) -> int:
    """The larger the better up to ``most`` / 2, else the smallest above; 0 where none is allowed.

    Twice the size must be allowed too.
    """
    longest = math.inf if source.ceiling is None else source.ceiling
    top = int(min(2 * _HALF, most or 2 * _HALF, longest)) // 2
    sizes = itertools.chain(
        range(top, 0, -1), range(top + 1, int(min(_FARTHEST, longest // 2)) + 1)
    )
    return next((size for size in sizes if allowed(size) and allowed(2 * size)), 0)


def modules_of(step: TrainStep) -> list[nn.Module]:
    """Every module, submodules included, each once."""
    return list({id(each): each for root in step.modules() for each in root.modules()}.values())


def hazards_in_room(
    step: TrainStep,
    source: BatchSource,
    seed: int,
    most: int,
    *,
    allowed: Allowed = any_size,
    advance: Advance = unmetered,
    out_of_time: Callable[[], bool] = never,
) -> Hazards:
    """``look_for_hazards``, with as many samples as memory lasts for."""
    room = math.inf

    def in_room(size: int) -> bool:
        return size <= room and allowed(size)

    while True:
        size = 2 * half_size(source, most, in_room)
        try:
            with attempt(step, max(1, size)):
                return look_for_hazards(
                    step,
                    source,
                    seed,
                    most,
                    allowed=in_room,
                    advance=advance,
                    out_of_time=out_of_time,
                )
        except Shortage:
            room = max(1, size // 2)  # with very few it looks at modules alone


def loss_ratio(
    step: TrainStep,
    source: BatchSource,
    seed: int = 0,
    half: int = _HALF,
    *,
    advance: Advance = unmetered,
    out_of_time: Callable[[], bool] = never,
) -> float | None:
    """A batch's loss over the mean of its halves' losses; None where it is 1 but for chance.

    Batch norm and dropout are still while it is looked at. A loss that is random in itself (noise
    or time steps drawn within it) is looked at several times, and a ratio is only given where it
    stands out from the scatter of sixteen looks: of the first four alone, one in forty would.
    """
    if out_of_time():
        return None
    try:
        with _stilled(modules_of(step)), kept_with(step.device):
            seen = _losses(step, source, half, seed, count=_REPEATS, advance=advance)
            if _beyond_chance(seen) is not None and not out_of_time():
                seen += _losses(
                    step, source, half, seed + _REPEATS, count=3 * _REPEATS, advance=advance
                )
    except (CannotBuildBatch, OutOfTime, StopIteration):
        return None
    finally:
        step.zero_grad()
    return _beyond_chance(seen)


def _losses(
    step: TrainStep, source: BatchSource, half: int, seed: int, *, count: int, advance: Advance
) -> list[tuple[float, tuple[float, float]]]:
    """The losses of ``count`` batches and of their halves, as ``rewind`` gives an order twice.

    As many from one order as it holds: to rewind is slow where worker processes read ahead.
    """
    found: list[tuple[float, tuple[float, float]]] = []
    at_once = count if source.length is None else max(1, source.length // (2 * half))
    while len(found) < count:
        pairs = min(at_once, count - len(found))
        losses = []
        for size, number in ((2 * half, pairs), (half, 2 * pairs)):
            source.rewind(seed + len(found))
            source.expect([size] * number)
            torch.manual_seed(seed + len(found))
            for _ in range(number):
                losses.append(float(step.forward_backward(source.draw(size))))
                step.zero_grad()
                advance(size, steps=0)
        whole, one, other = losses[:pairs], losses[pairs::2], losses[pairs + 1 :: 2]
        found += zip(whole, zip(one, other, strict=True), strict=True)
    return found


def _beyond_chance(seen: Sequence[tuple[float, tuple[float, float]]]) -> float | None:
    ratios = [mean_loss_ratio(whole, halves) for whole, halves in seen]
    if not all(map(math.isfinite, ratios)):
        return None
    mean, error = float(np.mean(ratios)), float(np.std(ratios, ddof=1)) / math.sqrt(len(ratios))
    return mean if abs(mean - 1) > 4 * error else None


@contextmanager
def _stilled(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Batch norm and dropout as in evaluation, each module's own mode put back after."""
    changed = [each for each in modules if isinstance(each, _STILLED) and each.training]
    for each in changed:
        each.training = False
    try:
        yield
    finally:
        for each in changed:
            each.training = True


_STILLED = (*BATCH_NORMS, *DROPOUTS)
