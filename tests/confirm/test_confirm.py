"""Confirmation: on a quadratic whose largest stable rate is known, and as plain data."""

import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from fakes import as_asked_for, watched_by_hand

from batchfinder.confirm import Trace, confirm, judge
from batchfinder.protocols import Setup
from batchfinder.results import BatchPlan, Judgement
from batchfinder.run.memory.defaults import Defaults
from batchfinder.run.ranks import ALONE

CURVATURE = 4.0


class Bowl:
    """L(w) = ½ · curvature · w² by gradient descent: stable exactly below rate 2 / curvature."""

    device = torch.device("cpu")
    ranks = ALONE
    updates_itself = False
    optimizer_family = "unknown"
    keeps_rate = True
    made_share = 1.0
    moves = True

    def __init__(self, rate=0.1, start=1.0):
        self.weight = torch.nn.Parameter(torch.tensor(float(start)))
        self.rate, self.start = rate, start
        self.batches, self.rates = [], []
        self.fail_at = math.inf

    def fresh(self):
        with torch.no_grad():
            self.weight.fill_(self.start)

    def parameters(self):
        return [self.weight]

    def holdings(self):
        return [self.weight]

    def forward_backward(self, batch, scale=1.0):
        self.batches.append(batch)
        if batch > self.fail_at:
            raise torch.OutOfMemoryError("CUDA out of memory")
        loss = 0.5 * CURVATURE * self.weight**2
        (loss * scale).backward()
        return loss.detach()

    is_compiled, device = False, torch.device("cpu")

    def loss_scale(self):
        return 1.0

    def update(self):
        self.rates.append(self.rate)
        with torch.no_grad():
            self.weight -= self.rate * self.weight.grad

    def learning_rate(self):
        return self.rate

    def scale_learning_rate(self, factor):
        self.rate *= factor

    def set_learning_rate(self, rate):
        self.rate = rate

    def zero_grad(self):
        self.weight.grad = None

    def watched(self):
        before = len(self.rates)

        def effect():
            updates = len(self.rates) - before
            made = int(self.made_share * updates)
            return replace(
                as_asked_for(),
                updates=updates,
                made=made,
                rate_kept=self.keeps_rate,
                parameters_moved=self.moves,
                clipped=updates // 4,
                wrapper="Wrapper",
            )

        return watched_by_hand(effect)


class Source:
    unit, length, ceiling, base_batch_size = "samples", 100, 100, 4

    def count(self, batch):
        return batch

    def take(self, size):
        return size + 0.5  # told apart from an ordinary batch

    def ordinary(self, size):
        return size

    def rebuild(self, size):
        yield from [size] * (100 // size)


class Memory(Defaults):
    name, is_simulated = "by hand", True
    flushes, peak, released = 0, 123, 0

    def limit_bytes(self):
        return 1000

    def peak_bytes(self):
        return self.peak

    def pressure(self):
        self.flushes += self.flush_each
        return self.flushes

    flush_each = 0

    def reset_peak(self): ...
    def synchronize(self): ...
    def release(self):
        self.released += 1

    @contextmanager
    def watch(self, held=()):
        self.held = list(held)
        yield


def run(bowl, rate, plan=None, memory=None, **more):
    plan = plan or BatchPlan(4)
    return confirm(Setup(bowl, Source(), memory or Memory()), plan, rate, fresh=bowl.fresh, **more)


class Counting(Memory):
    """How many forward passes each watch saw."""

    def __init__(self, bowl):
        self.bowl, self.seen = bowl, []

    @contextmanager
    def watch(self, held=()):
        before = len(self.bowl.batches)
        yield
        self.seen.append(len(self.bowl.batches) - before)


@pytest.mark.parametrize(
    ("is_simulated", "is_compiled", "watched"),
    [(True, False, [16]), (True, True, [16, 16]), (False, False, [16, 16])],
)
def test_operators_are_counted_once_where_that_takes_time(is_simulated, is_compiled, watched):
    """Where a device tells its peak by itself both branches have one."""
    bowl = Bowl()
    bowl.is_compiled, bowl.device = is_compiled, torch.device("meta")
    memory = Counting(bowl)
    memory.is_simulated = is_simulated
    found = run(bowl, 0.01, memory=memory, steps=8)
    assert found.double_rate_held
    assert (memory.seen, found.peak_bytes) == (watched, 123)


# --- against the truth ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "held", "twice"),
    [(0.1, True, True), (0.45, True, True), (0.6, True, False), (0.95, True, False)],
)
def test_a_rate_is_judged_by_its_distance_from_the_curvature_ceiling(share, held, twice):
    """Below the ceiling 2 / curvature it trains; above half of it twice the rate does not."""
    found = run(Bowl(), share * 2 / CURVATURE)
    assert (found.held, found.double_rate_held) == (held, twice)


def test_a_rate_above_the_ceiling_does_not_hold():
    found = run(Bowl(), 1.2 * 2 / CURVATURE)
    assert not found.held
    assert found.double_rate_held is None
    assert found.judgement is Judgement.ROSE


@pytest.mark.parametrize(("family", "twice"), [("sgd-momentum", False), ("adam", True)])
def test_under_sgd_twice_the_rate_is_tried_from_the_end_of_the_first_branch_too(family, twice):
    """A bowl that gets four times as steep once the first branch has gone down it."""

    class Steepening(Bowl):
        optimizer_family = family

        def fresh(self):
            super().fresh()
            self.steps = 0

        def forward_backward(self, batch, scale=1.0):
            steep = 4 if self.steps > 42 else 1
            loss = 0.5 * steep * CURVATURE * (self.weight**2 + 0.01)
            (loss * scale).backward()
            return loss.detach()

        def update(self):
            self.steps += 1
            super().update()

    found = run(Steepening(), 0.4 * 2 / CURVATURE)
    assert found.held
    assert found.double_rate_held is twice


def test_a_loss_that_overflows_is_named():
    found = run(Bowl(), 1e30)
    assert not found.held
    assert found.judgement is Judgement.NOT_FINITE


def test_the_step_keeps_its_rate_and_the_plan_is_run():
    bowl = Bowl(rate=0.1)
    found = run(bowl, 0.05, BatchPlan(4, 3), steps=8)
    # 8 batches before the first update, 8 steps of 3 micro-batches; twice.
    assert len(bowl.batches) == 2 * (8 + 8 * 3)
    assert bowl.batches[8 + 3 : 8 + 6] == [4.5] * 3  # the longest, in the second step
    assert bowl.rates[:8] == pytest.approx([0.025, *[0.05] * 7])  # rising over 8 // 4 steps
    assert bowl.rates[8:] == pytest.approx([0.05, *[0.1] * 7])
    assert bowl.rate == pytest.approx(0.05)
    assert found.steps == 8


def test_every_step_is_told_and_what_is_read_before_the_first_one():
    told = []

    def advance(samples, steps=1):
        told.append((samples, steps))

    run(Bowl(), 0.01, plan=BatchPlan(4, 2), steps=10, advance=advance)
    assert told == 2 * ([(4, 0)] * 8 + [(8, 1)] * 10)


def test_accumulation_averages():
    """Three micro-batches of the same batch are the step of one."""
    one, three = Bowl(), Bowl()
    a, b = run(one, 0.1, BatchPlan(4)), run(three, 0.1, BatchPlan(4, 3))
    assert a.last_loss == pytest.approx(b.last_loss)


def test_out_of_memory_is_a_finding_and_is_cleaned_up():
    bowl, memory = Bowl(), Memory()
    bowl.fail_at = 4.2  # only the longest batch does not fit
    found = run(bowl, 0.1, memory=memory)
    assert not found.held
    assert found.out_of_memory
    assert found.judgement is Judgement.OUT_OF_MEMORY
    assert "out of memory" in found.detail
    assert memory.released
    assert bowl.weight.grad is None


def test_what_earlier_stages_cached_is_released_before_the_pressure_is_read():
    events = []

    class Watched(Memory):
        def release(self):
            events.append("release")

        def reset_peak(self):
            events.append("reset")

        def pressure(self):
            events.append("pressure")
            return 0

    run(Bowl(), None, memory=Watched())
    assert events == ["release", "reset", "pressure", "pressure"]


def test_a_cache_that_is_flushed_at_first_has_settled():
    class Settling(Memory):
        def pressure(self):
            self.flushes = min(self.flushes + 1, 1)
            return self.flushes

    assert run(Bowl(), 0.1, memory=Settling()).held


def test_a_cache_that_goes_on_being_flushed_is_too_close():
    memory = Memory()
    memory.flush_each = 1
    found = run(Bowl(), 0.1, memory=memory)
    assert not found.held
    assert found.out_of_memory
    assert found.judgement is Judgement.AT_THE_EDGE


def test_a_bug_is_the_users_own():
    class Broken(Bowl):
        def forward_backward(self, batch, scale=1.0):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine") as caught:
        run(Broken(), 0.1)
    assert "in the confirmation at batch size 4" in caught.value.__notes__[0]


def test_without_a_rate_there_is_no_second_branch():
    bowl = Bowl(rate=0.1)
    found = run(bowl, None, steps=8)
    assert found.held
    assert found.double_rate_held is None
    assert bowl.rates == pytest.approx([0.05, *[0.1] * 7])


def test_a_step_without_a_loss_is_judged_by_memory_alone():
    class Silent(Bowl):
        updates_itself = True

        def forward_backward(self, batch, scale=1.0):
            return torch.tensor(math.nan)

        def update(self): ...

    found = run(Silent(), 0.1)
    assert found.held
    assert found.judgement is Judgement.NO_LOSS


def test_the_event_is_the_result():
    events = []
    found = run(Bowl(), 0.1, observe=events.append)
    assert events == [found]


@pytest.mark.parametrize(
    ("wrong", "judgement"),
    [
        ({"keeps_rate": False}, Judgement.RATE_NOT_KEPT),
        ({"moves": False}, Judgement.NO_UPDATE),
        ({"made_share": 0.25}, Judgement.NO_UPDATE),
    ],
)
def test_a_loss_that_falls_confirms_no_rate_that_was_not_used(wrong, judgement):
    bowl = Bowl()
    for name, value in wrong.items():
        setattr(bowl, name, value)
    found = run(bowl, 0.1)
    assert found.judgement is judgement
    assert not found.held and found.at_double_rate is None
    assert found.effect.updates == 40


def test_a_step_that_updates_by_itself_may_do_so_as_often_as_it_likes():
    bowl = Bowl()
    bowl.updates_itself, bowl.made_share = True, 0.25
    assert run(bowl, 0.1).held


def test_without_a_rate_none_can_be_lost():
    bowl = Bowl()
    bowl.keeps_rate = False
    assert run(bowl, None).held


# --- judging -------------------------------------------------------------------------------------

FLAT = tuple(1.0 + 0.1 * (-1) ** k for k in range(40))


def test_a_flat_noisy_loss_is_fine():
    assert judge(Trace(opening=FLAT[:8], losses=FLAT)) is Judgement.HELD


def test_a_rise_beyond_the_scatter_is_not():
    risen = tuple(loss + 0.3 for loss in FLAT)
    assert judge(Trace(FLAT[:8], risen)) is Judgement.ROSE
    assert judge(Trace(FLAT[:8], risen), allowance=0.5) is Judgement.HELD


def test_growing_swings_are_seen_and_constant_ones_are_not():
    growing = tuple(1.0 + 0.01 * 1.15**k * (-1) ** k for k in range(40))
    rising = tuple(x + 0.02 * k for k, x in enumerate(growing))
    assert judge(Trace((2.0, 2.0), rising)) is Judgement.OSCILLATED
    assert judge(Trace((2.0, 2.0), FLAT)) is Judgement.HELD


def test_one_odd_batch_is_no_swing():
    odd = list(FLAT)
    odd[35] = 5.0
    assert judge(Trace((2.0, 2.0), tuple(odd))) is Judgement.HELD


def test_a_loss_of_zero_may_become_a_rounding_error_and_no_more():
    assert judge(Trace((0.0,) * 8, (1e-9,) * 20)) is Judgement.HELD
    assert judge(Trace((0.0,) * 8, (1e-3,) * 20)) is Judgement.ROSE
