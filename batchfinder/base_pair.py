"""The pair that the user's training works with: its batch size and its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from batchfinder.errors import NothingFits
from batchfinder.measure import MEMORY_GONE
from batchfinder.noise import NoRoom, attempt
from batchfinder.range_test import range_test
from batchfinder.results import Note, ProbeResult
from batchfinder.run.bench import Bench
from batchfinder.session import Call

__all__ = ["Base", "base_of", "check_loss", "in_room"]

T = TypeVar("T")

_ASSUMED_BATCH = 32


@dataclass(frozen=True)
class Base:
    """Where the user's training stands now; what had to be assumed is in ``caveats``.

    ``is_yours``: neither the size nor the rate had to be.
    """

    batch_size: int
    learning_rate: float | None
    caveats: tuple[str, ...] = ()
    is_yours: bool = True

    def micro_batch(self, largest: int) -> int:
        """The base batch, cut so that it fits."""
        return min(self.batch_size, largest)


def base_of(
    call: Call,
    probed: ProbeResult,
    batch_size: int | None,
    learning_rate: float | None,
) -> Base:
    """The pair as given; what is missing is taken from the loader, the optimizer, or a test.

    Raises:
        LossIsNotFinite: where the loss is so at the user's own weights.
        NothingFits: where memory, enough in the search, now ends at the smallest size too.
    """
    try:
        return _base(call, probed, batch_size, learning_rate)
    except NoRoom as error:
        raise NothingFits(MEMORY_GONE.format(found=error)) from None


def _base(
    call: Call,
    probed: ProbeResult,
    batch_size: int | None,
    learning_rate: float | None,
) -> Base:
    caveats = []
    source = call.bench.source
    call.bench.training()  # the trials ran at a rate of zero
    if batch_size is None:
        batch_size = source.base_batch_size
    if batch_size is None:
        batch_size = min(_ASSUMED_BATCH, probed.max_batch_size)
        caveats.append(
            f"neither base_batch_size nor the loader names a batch size: {batch_size} was assumed"
        )
    if source.ceiling is not None and batch_size > source.ceiling:
        caveats.append(
            f"the base batch size {batch_size} is more than the {source.ceiling} that the dataset "
            "can fill: the dataset's size took its place"
        )
        batch_size = source.ceiling
    check_loss(call.bench, min(batch_size, probed.max_batch_size))
    if learning_rate is None and call.bench.has_own_optimizer:
        learning_rate = call.bench.step.learning_rate()
        if learning_rate == 0:
            learning_rate = call.bench.initial_learning_rate()
            caveats.append(_at_zero(learning_rate))
    is_yours = not caveats
    if learning_rate is None:
        learning_rate, caveat = _tested_rate(call, batch_size, probed.max_batch_size)
        caveats.append(caveat)
        is_yours = False
    return Base(batch_size, learning_rate, tuple(caveats), is_yours)


def _at_zero(initial: float | None) -> str:
    now = "the optimizer's learning rate is 0 now, as at the start of a scheduler's warm-up: "
    if initial is None:
        return f"{now}no rate is known; pass base_learning_rate="
    return f"{now}{initial:.3g}, to which it rises, was taken as the base rate"


def check_loss(bench: Bench, size: int) -> int:
    """One loss at the user's own weights; a step that returns none cannot be checked.

    The size at which it ran: the next half where memory ended.

    Raises:
        LossIsNotFinite: where it is NaN or infinite.
        NoRoom: where memory ends at the smallest size too.
    """
    size, loss = in_room(
        bench, size, lambda each: bench.step.forward_backward(bench.source.ordinary(each))
    )
    if not bench.step.updates_itself:
        bench.step.check_loss(loss)
    bench.training()
    return size


def in_room(bench: Bench, size: int, work: Callable[[int], T]) -> tuple[int, T]:
    """``work(size)``, or of the next half where memory ends, from untouched weights each time.

    A size that fitted in a trial may still run out later, once memory is in fragments.

    Raises:
        NoRoom: where memory ends at the smallest size too.
    """
    smallest = bench.smallest_size()
    while True:
        bench.training()
        try:
            return size, attempt(bench.step, size, partial(work, size))
        except NoRoom:
            if size <= smallest:
                raise
        size = max(smallest, size // 2)


def _tested_rate(call: Call, batch_size: int, largest: int) -> tuple[float | None, str]:
    bench = call.bench
    call.observe(Note("no learning rate was given: a range test looks for one"))
    size, found = in_room(
        bench, min(batch_size, largest), partial(range_test, bench.step, bench.source)
    )
    if found is None:
        return None, (
            "no learning rate was given and the range test found none: no rate is "
            "recommended; pass optimizer= or base_learning_rate="
        )
    return found, (
        f"no learning rate was given: {found:.2g}, in place of what the assumed optimizer brings "
        "along, comes from a learning-rate range test at batch "
        f"{size}; pass optimizer= or base_learning_rate= to replace it by one that you know "
        "to work"
    )
