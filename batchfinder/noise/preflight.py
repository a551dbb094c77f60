"""What makes the noise scale wrong or meaningless, looked for before it is measured."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from batchfinder.errors import CannotBuildBatch, OutOfTime
from batchfinder.formulas import mean_loss_ratio
from batchfinder.noise.room import NoRoom, attempt
from batchfinder.protocols import BatchSource, TrainStep
from batchfinder.wording import Caveat

NORM_BATCH = 32
"""From this micro-batch on, batch norm changes the noise scale by less than a tenth."""

_HALF = 8
MOST_LOOKED_AT = 2 * _HALF
"""Samples whose loss is looked at together, at most."""

_SMALLEST_HALF = 3  # of 2, a contrastive loss doubles as a sum does: log 4 / log 2
_REPEATS = 4


@dataclass(frozen=True)
class Hazards:
    """What was found. ``refusal`` is the reason why no noise scale can be given, if there is."""

    batch_norm: bool = False
    dropout: bool = False
    sum_reduced: bool = False
    refusal: str = ""

    def said(self, size: int) -> list[str]:
        """What to say beside a noise scale measured with micro-batches of ``size``."""
        said: list[str] = []
        if self.sum_reduced:
            said.append(Caveat("noise.sum_reduced"))
        if self.batch_norm:
            code = "noise.batch_norm_small" if size < NORM_BATCH else "noise.batch_norm"
            said.append(Caveat(code, size=size))
        if self.dropout:
            said.append(Caveat("noise.dropout"))
        return said


def look_for_hazards(
    step: TrainStep, source: BatchSource, seed: int = 0, most: int | None = None
) -> Hazards:
    """Look at the modules, and at the loss of a batch beside its halves', at most ``most``."""
    modules = [each for each in modules_of(step) if each.training]
    found = Hazards(
        batch_norm=any(isinstance(each, _BATCH_NORMS) for each in modules),
        dropout=any(isinstance(each, _DROPOUTS) and each.p > 0 for each in modules),
    )
    ratio = loss_ratio(step, source, seed, most)
    if ratio is None or abs(ratio - 1) <= 0.05:
        return found
    if abs(ratio - 2) <= 0.05 and _is_sum(step, source, seed, most):
        return replace(found, sum_reduced=True)
    return replace(found, refusal=Caveat("noise.coupled", ratio=ratio))


def _is_sum(step: TrainStep, source: BatchSource, seed: int, most: int | None) -> bool:
    """Whether the loss doubles at a smaller size too: a contrastive loss may do so at one size."""
    smaller = max(_half(source, most) // 2, 2)
    again = loss_ratio(step, source, seed, 2 * smaller, smallest=2)
    return again is not None and abs(again - 2) <= 0.05


def modules_of(step: TrainStep) -> list[nn.Module]:
    """Every module, submodules included, each once."""
    return list({id(each): each for root in step.modules() for each in root.modules()}.values())


def hazards_in_room(step: TrainStep, source: BatchSource, seed: int, most: int) -> Hazards:
    """What makes the noise scale wrong, looked for with as many samples as memory lasts for."""
    most = min(most, MOST_LOOKED_AT)
    while True:
        try:
            return attempt(step, most, partial(look_for_hazards, step, source, seed, most))
        except NoRoom:
            most = max(1, most // 2)  # with very few it looks at modules alone


def loss_ratio(
    step: TrainStep,
    source: BatchSource,
    seed: int = 0,
    most: int | None = None,
    *,
    smallest: int = _SMALLEST_HALF,
) -> float | None:
    """A batch's loss over the mean of its halves' losses; None where it is 1 but for chance.

    Batch norm and dropout are still while it is looked at. A loss that is random in itself (noise
    or time steps drawn within it) is looked at several times, and a ratio is only given where it
    stands out from the scatter of sixteen looks: of the first four alone, one in forty would.
    """
    half = _half(source, most)
    if half < smallest:
        return None
    try:
        with _stilled(modules_of(step)), _generators_kept(step.device):
            seen = [_losses(step, source, half, seed + repeat) for repeat in range(_REPEATS)]
            if _beyond_chance(seen) is not None:
                more = range(_REPEATS, 4 * _REPEATS)
                seen += [_losses(step, source, half, seed + repeat) for repeat in more]
    except (CannotBuildBatch, OutOfTime, StopIteration):
        return None
    finally:
        step.zero_grad()
    return _beyond_chance(seen)


def _half(source: BatchSource, most: int | None) -> int:
    return min(2 * _HALF, *(bound for bound in (source.ceiling, most, 2 * _HALF) if bound)) // 2


def _losses(
    step: TrainStep, source: BatchSource, half: int, seed: int
) -> tuple[float, tuple[float, float]]:
    """The losses of a batch and of its two halves, as ``rewind`` gives the same order twice."""
    losses = []
    for sizes in ((2 * half,), (half, half)):
        source.rewind(seed)
        torch.manual_seed(seed)
        for size in sizes:
            losses.append(float(step.forward_backward(source.draw(size))))
            step.zero_grad()
    return losses[0], (losses[1], losses[2])


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


@contextmanager
def _generators_kept(device: torch.device) -> Iterator[None]:
    python, arrays = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_DROPOUTS = (nn.modules.dropout._DropoutNd,)
_STILLED = (*_BATCH_NORMS, *_DROPOUTS)
