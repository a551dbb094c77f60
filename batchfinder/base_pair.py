"""The pair that the user's training works with: its batch size and its learning rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from batchfinder.confirm import OwnPair
from batchfinder.errors import InvalidArgument, NothingFits
from batchfinder.learning_rate_range import LOWEST, range_test
from batchfinder.measure import MEMORY_GONE
from batchfinder.rates import UpdateEffect
from batchfinder.results import Note, ProbeResult
from batchfinder.run.attempt import Shortage, attempt
from batchfinder.run.bench import Bench
from batchfinder.session import Call
from batchfinder.wording import Caveat

__all__ = ["Base", "base_of", "check_loss", "in_room", "own_pair", "why_unused"]

T = TypeVar("T")

_ASSUMED_BATCH = 32

_UPDATES, _MOST_UPDATES = 2, 20
"""Updates that are looked at; the second shows what a schedule inside the step has written."""


@dataclass(frozen=True)
class Base:
    """Where the user's training stands now; what had to be assumed is in ``caveats``.

    ``is_yours``: neither the size nor the rate had to be; ``size_is_yours`` and ``rate_is_yours``:
    this one had not.
    """

    batch_size: int
    learning_rate: float | None
    caveats: tuple[Caveat, ...] = ()
    is_yours: bool = True
    size_is_yours: bool = True
    rate_is_yours: bool = True

    def micro_batch(self, largest: int) -> int:
        """The base batch, cut so that it fits."""
        return min(self.batch_size, largest)


def own_pair(base: Base, replicas: int = 1, *, is_measured: bool = False) -> OwnPair | None:
    """The user's own pair, or the one that was measured, which trains; what was assumed may not."""
    if base.learning_rate is None or not base.is_yours:
        return None
    return OwnPair(base.batch_size * replicas, base.learning_rate, is_measured)


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
    except Shortage as error:
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
        caveats.append(Caveat("base.no_size", assumed=batch_size))
    if source.ceiling is not None and batch_size > source.ceiling:
        caveats.append(Caveat("base.beyond_dataset", size=batch_size, ceiling=source.ceiling))
        batch_size = source.ceiling
    size_is_yours = not caveats
    check_loss(call.bench, min(batch_size, probed.max_batch_size))
    step = call.bench.step
    is_yours, rate_is_yours = not caveats, True
    if learning_rate is None and call.bench.has_own_optimizer:
        now, learning_rate = step.learning_rate(), step.base_learning_rate()
        if now == 0 and learning_rate is None:
            caveats.append(Caveat("base.zero_rate"))
        elif now is not None and now != learning_rate:
            caveats.append(Caveat("step.peak", now=now, peak=learning_rate))
    unused = why_unused(call.bench, min(batch_size, probed.max_batch_size))
    if unused is not None:
        return Base(
            batch_size,
            None,
            (*caveats, unused),
            is_yours=False,
            size_is_yours=size_is_yours,
        )
    if learning_rate is None:
        learning_rate, caveat = _tested_rate(call, batch_size, probed.max_batch_size)
        caveats.append(caveat)
        is_yours = rate_is_yours = False
    return Base(batch_size, learning_rate, tuple(caveats), is_yours, size_is_yours, rate_is_yours)


def why_unused(bench: Bench, size: int) -> Caveat | None:
    """Why the rate that is set is not the one that is trained with; ``None`` where it is.

    A few updates at another rate than the user's, then undone.

    Raises:
        InvalidArgument: where the optimizer's step does nothing.
        Shortage: where memory runs out at the smallest size too.
    """
    step, rate = bench.step, bench.step.base_learning_rate()
    if not bench.has_own_optimizer:
        return Caveat("step.optimizer_unseen") if step.updates_itself else None

    def look(each: int) -> UpdateEffect:
        with step.watched() as watch:
            if step.group_rates():
                step.set_learning_rate(rate / 2 if rate else LOWEST)
            for _ in range(_MOST_UPDATES):
                step.zero_grad()
                step.forward_backward(bench.source.ordinary(each))
                step.update()
                # a gradient scaler leaves out updates until its scale has settled, a wrapper
                # those between two boundaries: so many in a row are waited for
                settled = step.updates_itself or watch.in_a_row >= _UPDATES or not watch.made
                if watch.updates >= _UPDATES and settled and not watch.effect().did_nothing:
                    break
            effect: UpdateEffect = watch.effect()
            return effect

    _, effect = in_room(bench, size, look)
    bench.training()
    if effect.did_nothing or (effect.updates == _MOST_UPDATES and effect.left_out):
        made = effect.updates - effect.left_out
        did = f"updated them in {made} of {effect.updates} calls"
        if effect.did_nothing:
            did = f"did nothing in {effect.updates} updates"
        raise InvalidArgument(
            f"expected an optimizer that updates the parameters; found {effect.wrapper}, whose "
            f"step {did}: a wrapper may wait for the end of an accumulation. Pass the optimizer "
            "that it wraps (such as wrapper.optimizer), or let its step run at every call"
        )
    if effect.steps_taken == 0:
        return Caveat("step.optimizer_unused", name=effect.wrapper)
    if not effect.rate_kept:
        return Caveat("step.rate_overwritten")
    return None if step.group_rates() else Caveat("step.no_rate", name=step.optimizer_name)


def check_loss(bench: Bench, size: int) -> int:
    """One loss at the user's own weights; a step that returns none cannot be checked.

    The size at which it ran: the next half where memory ended.

    Raises:
        LossIsNotFinite: where it is NaN or infinite.
        Shortage: where memory runs out at the smallest size too.
    """
    size, loss = in_room(
        bench, size, lambda each: bench.step.forward_backward(bench.source.ordinary(each))
    )
    if not bench.step.updates_itself:
        bench.step.check_loss(loss)
    bench.training()
    return size


def in_room(bench: Bench, size: int, work: Callable[[int], T]) -> tuple[int, T]:
    """``work(size)``, or of the next half if memory runs out, from untouched weights each time.

    A size that fitted in a trial may still run out later, once memory is in fragments.

    Raises:
        Shortage: where memory runs out at the smallest size too.
    """
    allowed = bench.sizes
    size = allowed.at_most(size)
    while True:
        bench.training()
        try:
            with attempt(bench.step, size, memory=bench.memory):
                return size, work(size)
        except Shortage:
            if size <= allowed.smallest:
                raise
        size = allowed.at_most(size // 2)


def _tested_rate(call: Call, batch_size: int, largest: int) -> tuple[float | None, Caveat]:
    bench = call.bench
    call.observe(Note(Caveat("base.range_test")))
    test = partial(range_test, bench.step, bench.source, seconds_left=call.budget.seconds_left)
    size, found = in_room(bench, min(batch_size, largest), test)
    if found is None:
        return None, Caveat("base.no_rate_found")
    return found, Caveat("base.rate_found", rate=found, batch=size)
