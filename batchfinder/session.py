"""One call under way: its bench, its observer, its budget; and whether all was put back."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from batchfinder.errors import StateNotRestoredWarning
from batchfinder.meter import Waiting
from batchfinder.probe import SearchSpace
from batchfinder.progress import default_observer, is_quiet, silent
from batchfinder.protocols import Clock, Observer
from batchfinder.results import Note, Stage, StageStarted
from batchfinder.run.bench import Bench, open_bench
from batchfinder.run.ranks import Wrapping, launched_without_group, meet
from batchfinder.run.switches import gradients_on
from batchfinder.training import Training, as_list
from batchfinder.wording import Caveat

__all__ = ["Budget", "Call", "not_restored", "opened", "shared", "stage"]

T = TypeVar("T")

_ANY_SIZE = SearchSpace()

DEFAULT_SECONDS = 60.0
DEFAULT_STEPS = 20
"""Without a budget from the caller: a minute, and so many of the user's own steps more."""

_LOOKING = 0.1
"""Share of the budget in which samples are looked at before the first trial."""

_UNSEEN = (
    "the optimizer inside train_step, which was not passed (pass optimizer= to have its state "
    "restored)"
)


@dataclass
class Budget:
    """The seconds that the whole call may take, softly.

    ``total_seconds`` is what the caller gave. Where that is nothing, a call that ``has_default``
    keeps to a minute, and to 20 of the user's own steps more; any other has no limit.
    """

    total_seconds: float | None = None
    clock: Clock = time.perf_counter
    """Of several ranks the same for all, so that each reading is a message."""
    started: float = field(default_factory=time.perf_counter)
    has_default: bool = False
    own_step_seconds: float = 0.0
    """One step of the user's own batch size, as far as it is known."""
    beside_seconds: float = 0.0
    """Taken by what the default does not count: a race of learning rates."""
    _aside_since: float | None = None
    _aside_since_here: float | None = None
    """The same moment by this rank's own clock."""
    own_clock: Clock | None = None
    """This rank's, where ``clock`` is that of several."""

    def __post_init__(self) -> None:
        self._started_here = self.here()

    @property
    def limit_seconds(self) -> float | None:
        """What the call keeps to; ``None`` where it has no limit."""
        return self._limit(self.clock, self._aside_since)

    def _limit(self, clock: Clock, aside_since: float | None) -> float | None:
        if self.total_seconds is not None or not self.has_default:
            return self.total_seconds
        aside = 0.0 if aside_since is None else clock() - aside_since
        taken = self.beside_seconds + aside
        return DEFAULT_SECONDS + DEFAULT_STEPS * self.own_step_seconds + taken

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done within does not count where the caller gave no budget."""
        since = self._aside_since = self.clock()
        self._aside_since_here = self.here()
        try:
            yield
            # not after an error: this reading waits for the other ranks
            self.beside_seconds += self.clock() - since
        finally:
            self._aside_since = self._aside_since_here = None

    def here(self) -> float:
        """This rank's own time, for what the others need not go by."""
        return self.clock() if self.own_clock is None else self.own_clock()

    def left(self) -> float | None:
        limit = self.limit_seconds
        return None if limit is None else max(0.0, limit - (self.clock() - self.started))

    def seconds_left(self) -> float:
        """As ``left``; infinite without a limit."""
        left = self.left()
        return math.inf if left is None else left

    def seconds_left_here(self) -> float:
        """As ``seconds_left``, by this rank's own clock: no message is sent."""
        limit = self._limit(self.here, self._aside_since_here)
        return math.inf if limit is None else max(0.0, limit - (self.here() - self._started_here))

    def share(self, part: float) -> float | None:
        """``part`` of what is left."""
        left = self.left()
        return None if left is None else part * left

    def is_spent(self, part: float = 1.0) -> bool:
        """Whether ``part`` of the whole budget has been used."""
        left, limit = self.left(), self.limit_seconds
        return left is not None and limit is not None and left <= (1 - part) * limit


@dataclass
class Call:
    """What every stage of one call shares; ``spent`` is filled by them.

    What a stage has to say stands in what it returns.
    """

    bench: Bench
    observe: Observer
    wrapping: Wrapping = field(default_factory=Wrapping)
    """How the model is distributed over the ranks."""
    loader: Any = None
    """The user's own, to be asked how many workers it has."""
    budget: Budget = field(default_factory=Budget)
    spent: dict[str, float] = field(default_factory=dict)

    @property
    def replicas(self) -> int:
        """How many ranks share one optimizer step, each with samples of its own."""
        return self.bench.step.ranks.replicas

    @property
    def dataset_length(self) -> int | None:
        """Samples in all, of every replica's part; ``None`` for a stream."""
        own = self.bench.source.length
        return None if own is None else own * self.replicas

    def cut_short(self, code: str, **numbers: Any) -> Caveat:
        """What was left out as the time ran out, with the time that there was."""
        seconds = self.budget.limit_seconds or 0.0
        given = self.budget.total_seconds is not None
        return Caveat(code, seconds=seconds, given=given, **numbers)

    def own_step_takes(self, seconds: float) -> None:
        """Plan with ``seconds`` for one step of the user's own, and say so where that is long."""
        before = self.budget.limit_seconds or 0.0
        self.budget.own_step_seconds = seconds
        after = self.budget.limit_seconds or 0.0
        if after > 1.2 * max(before, DEFAULT_SECONDS) and self.budget.total_seconds is None:
            self.observe(Note(Caveat("session.longer", seconds=after, step_seconds=seconds)))


@contextmanager
def opened(
    training: Training,
    *,
    space: SearchSpace = _ANY_SIZE,
    memory_limit: int | str | None = None,
    base_learning_rate: float | None = None,
    budget_seconds: float | None = None,
    has_default_budget: bool = False,
    seed: int = 0,
    observe: Observer | None = None,
    function: str = "",
) -> Iterator[Call]:
    """What the user handed in, set up for one call; put back on the way out.

    The budget runs from here on: to look at the samples takes time too. With
    ``has_default_budget`` there is one even where ``budget_seconds`` is left out. ``function`` is
    the one that was called, which all ranks must have done.
    """
    met, wrapping = meet(
        training.ranks,
        as_list(training.model),
        function,
        reaching=(training.train_step, training.loss_fn, training.backward),
        sizes=space,
        budget_seconds=budget_seconds,
        base_learning_rate=base_learning_rate,
        seed=seed,
    )
    budget = Budget(
        budget_seconds, met.clock, met.clock(), has_default_budget, own_clock=time.perf_counter
    )
    with ExitStack() as stack:
        on_read = None
        if observe is None and is_quiet():
            observe = silent
        elif observe is None:
            waiting = stack.enter_context(Waiting(default_observer()))
            observe, on_read = waiting, waiting.on_read
        if not met.alone:
            observe(Note(Caveat("ranks.begin", size=met.size, wrapper=wrapping.name)))
        elif (launched := launched_without_group()) is not None:
            observe(Note(Caveat("ranks.no_group", size=launched)))
        if budget.limit_seconds is not None and budget_seconds is None:
            observe(Note(Caveat("session.plan", seconds=budget.limit_seconds)))
        bench = stack.enter_context(
            open_bench(
                training,
                space=space,
                memory_limit=memory_limit,
                base_learning_rate=base_learning_rate,
                seed=seed,
                patience_seconds=budget.share(_LOOKING),
                seconds_left=budget.seconds_left_here,
                on_read=on_read,
                ranks=met,
                wrapping=wrapping,
            )
        )
        try:
            yield Call(bench, observe, wrapping, training.loader, budget)
        except BaseException as error:
            met.left_with(error)
            raise


@contextmanager
def stage(
    call: Call, which: Stage, detail: str = "", expected_seconds: float | None = None
) -> Iterator[None]:
    """Announce a stage, time it, and name it in a note on any error that comes out of it."""
    call.observe(StageStarted(which, detail, expected_seconds))
    started = call.budget.here()
    try:
        yield
    except Exception as error:
        error.add_note(f"batchfinder: raised in stage {which.name}: {which.value}")
        raise
    finally:
        name = which.name.lower()
        call.spent[name] = call.spent.get(name, 0.0) + call.budget.here() - started


def shared(call: Call, found: T) -> T:
    """Rank 0's, on every rank: what was decided is the same, names of devices may differ."""
    ranks = call.bench.step.ranks
    return ranks.tell("the result", found if ranks.rank == 0 else None)[0] or found


def not_restored(call: Call) -> tuple[Caveat, ...]:
    """What is not, or cannot be shown to be, as it was before the call; a warning names it."""
    with gradients_on():  # as they were when the snapshot was taken
        lost = call.bench.snapshot.differences()
    unseen = not (call.bench.has_own_optimizer or call.bench.snapshot.keeps_optimizer)
    if call.bench.step.updates_itself and unseen:
        lost = (*lost, _UNSEEN)
    if not (ranks := call.bench.step.ranks).alone:
        every = ranks.tell("what was put back", lost)
        lost = tuple(f"{each} on rank {rank}" for rank, own in enumerate(every) for each in own)
    if lost:
        warnings.warn(
            f"could not verify that these were restored: {', '.join(lost)}. If your training "
            "step keeps state outside the model and the optimizer, pass that object in "
            "Training(..., preserve=[...]).",
            StateNotRestoredWarning,
            stacklevel=3,
        )
    return tuple(Caveat("session.not_restored", what=each) for each in lost)
