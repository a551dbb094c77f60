"""Arms on trainings whose outcome is known in closed form."""

import math
from contextlib import contextmanager

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from batchfinder.errors import CannotBuildBatch
from batchfinder.protocols import Setup
from batchfinder.race import Course, Race, race_rates, run_arms
from batchfinder.race.arms import Average, Passes
from batchfinder.results import BatchPlan
from batchfinder.run.batches import source_from
from batchfinder.run.memory import backend_for
from batchfinder.run.ranks import ALONE
from batchfinder.run.state import preserved
from batchfinder.run.step import step_from

CURVATURE = 4.0


class Bowl:
    """L(w) = ½ · curvature · w² plus the batch's mean, by gradient descent."""

    device = torch.device("cpu")
    ranks = ALONE
    updates_itself = False
    optimizer_family = "unknown"

    def __init__(self, start=1.0):
        self.weight = torch.nn.Parameter(torch.tensor(float(start), dtype=torch.float64))
        self.first, self.rate = float(start), 1.0
        self.trained, self.seen, self.rates = [], [], []

    def start(self, rate):
        with torch.no_grad():
            self.weight.fill_(self.first)
        self.rate, self.trained, self.rates = rate, [], []

    def parameters(self):
        return [self.weight]

    def holdings(self):
        return [self.weight]

    def forward_backward(self, batch, scale=1.0):
        self.seen.append(batch)
        loss = 0.5 * CURVATURE * self.weight**2 + 1
        (loss * scale).backward()
        return loss.detach()

    def loss_scale(self):
        return 1.0

    def update(self):
        self.trained += self.seen
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
        self.weight.grad, self.seen = None, []


NOISE = 0.3


class NoisyBowls(Bowl):
    """A thousand bowls side by side, the noise of each its own."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1000, dtype=torch.float64))

    def forward_backward(self, batch, scale=1.0):
        each = 0.5 * CURVATURE * self.weight**2
        (each.sum() * scale).backward()
        return each.detach().mean()

    def update(self):
        self.weight.grad += NOISE * torch.randn(1000, dtype=torch.float64)
        super().update()


class Numbered:
    """Batches are the numbers of their samples, drawn in an order that the seed shifts."""

    unit, base_batch_size = "samples", 4

    def __init__(self, length=40):
        self.length = self.ceiling = length
        self.rewind(0)

    def expect(self, sizes):
        pass

    def rewind(self, seed):
        self.order = [(each + seed) % self.length for each in range(self.length)]

    def draw(self, size):
        if size > len(self.order):
            raise CannotBuildBatch("a new pass would mix what was held out with the rest")
        drawn, self.order = self.order[:size], self.order[size:]
        return tuple(drawn)


class Memory:
    def __init__(self):
        self.watched = 0

    def synchronize(self): ...

    def release(self): ...

    @contextmanager
    def watch(self, held=()):
        self.watched += 1
        yield


def course(bowl=None, source=None, **settings):
    bowl = bowl or Bowl()
    settings = {"plan": BatchPlan(4), "steps": 50, "ramp": 20, "held": 2} | settings
    return Course(Setup(bowl, source or Numbered(), Memory()), start=bowl.start, **settings)


def ramped(rate, steps, ramp=20):
    return [rate * min(1.0, t / ramp) for t in range(1, steps + 1)]


def test_the_loss_of_an_arm_is_that_of_its_closed_form():
    arm = course().arm(0.01)
    weight = math.prod(1 - CURVATURE * rate for rate in ramped(0.01, 50))
    assert arm.loss == pytest.approx(1 + 0.5 * CURVATURE * weight**2)
    assert (arm.learning_rate, arm.steps, arm.order) == (0.01, 50, 1)


def test_the_average_of_the_weights_is_that_of_its_closed_form():
    arm = course(averaged=True).arm(0.01)
    weight, average = 1.0, 1.0
    for t, rate in enumerate(ramped(0.01, 50), 1):
        weight *= 1 - CURVATURE * rate
        average += 6 / (t + 5) * (weight - average)
    assert arm.loss == pytest.approx(1 + 0.5 * CURVATURE * average**2)


def test_a_rate_above_the_edge_of_stability_runs_away():
    arm = course().arm(2.1 * 2 / CURVATURE)
    assert arm.loss == math.inf
    assert arm.ran_away
    assert arm.steps < 50
    assert not course().arm(0.9 * 2 / CURVATURE).ran_away


def test_a_loss_that_starts_near_zero_or_below_may_still_move():
    """Three times the start's loss is no bound where that is negative."""

    class Below(Bowl):
        def forward_backward(self, batch, scale=1.0):
            return super().forward_backward(batch, scale) - 4.0

    assert not course(Below()).arm(0.01).ran_away
    assert course(Below()).arm(1.1).ran_away


def test_no_arm_trains_on_what_is_held_out_however_many_passes_it_takes():
    bowl, source = Bowl(), Numbered(length=21)  # three batches a pass, and one sample over
    arm = course(bowl, source, steps=30)
    arm.arm(0.01)
    trained = [each for batch in bowl.trained for each in batch]
    held = {each for batch in Passes(source, 4, 2, seed=0).held_out() for each in batch}
    assert held == set(range(8))
    assert not held & set(trained)
    assert set(trained) == set(range(8, 20))
    assert len(trained) == 30 * 4


def test_every_arm_sees_the_same_batches_and_the_second_order_others():
    bowl = Bowl()
    arms = course(bowl)
    orders = []
    for rate, order in ((0.01, 1), (0.02, 1), (0.02, 2)):
        arms.arm(rate, order)
        orders.append(bowl.trained)
    assert orders[0] == orders[1] != orders[2]


def test_accumulated_steps_take_the_mean_over_their_micro_batches():
    bowl = Bowl()
    once = course(bowl).arm(0.01)
    parts = course(bowl, Numbered(80), plan=BatchPlan(2, accumulation_steps=4)).arm(0.01)
    assert parts.loss == pytest.approx(once.loss)
    assert len(bowl.rates) == 50
    assert len(bowl.trained) == 200


def test_the_rate_rises_over_the_ramp():
    bowl = Bowl()
    course(bowl, ramp=20, steps=50).arm(0.01)
    assert bowl.rates == pytest.approx(ramped(0.01, 50))


def test_the_start_is_looked_at_once_and_before_any_step():
    bowl = Bowl(start=0.5)
    arms = course(bowl)
    assert math.isnan(arms.start_loss)
    arms.arm(0.01)
    assert arms.start_loss == pytest.approx(1 + 0.5 * CURVATURE * 0.25)


@pytest.mark.parametrize("factor", [1 / 4, 1, 4])
def test_the_best_rate_of_the_bowl_is_found_from_a_rate_that_is_off(factor):
    """Without a ramp 1 / curvature ends in one step, and any other rate is slower."""
    arms = course(ramp=0, steps=5)
    finish = run_arms(arms.arm, factor / CURVATURE * 1.1, most=8)
    best = min(finish.arms, key=lambda arm: arm.loss)
    assert best.learning_rate == pytest.approx(1.1 / CURVATURE)


def test_a_noisy_bowl_is_solved_by_the_rate_that_theory_gives():
    """One eigenvalue, gradients with noise: E w² after n steps has a closed form in the rate."""
    steps, rates = 50, [0.02 * 2**k for k in range(5)]

    def expected(rate):
        square = 1.0
        for _ in range(steps):
            square = (1 - CURVATURE * rate) ** 2 * square + (rate * NOISE) ** 2
        return square

    torch.manual_seed(0)
    arms = course(NoisyBowls(), ramp=0, steps=steps)
    losses = {rate: arms.arm(rate).loss for rate in rates}
    best = min(rates, key=expected)
    assert min(losses, key=losses.__getitem__) == best
    assert losses[best] == pytest.approx(0.5 * CURVATURE * expected(best), rel=0.15)


def test_the_memory_limit_holds_in_an_arm():
    arms = course()
    arms.arm(0.01)
    assert arms.setup.memory.watched == 1


def test_an_average_of_half_precision_weights_is_kept_in_single():
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    average = Average([weight], torch.device("cpu"))
    for value in (1.0, 2.0):
        with torch.no_grad():
            weight.fill_(value)
        average.update()
    average.put_in()
    assert weight.tolist() == pytest.approx([1 + 6 / 7] * 3, rel=2**-8)


# --- a whole race at one batch -------------------------------------------------------------------


def raced(bowl=None, source=None, rate=0.1, **settings):
    bowl = bowl or Bowl()
    settings = {"race": Race(ramp=0)} | settings
    plan = BatchPlan(4)
    return race_rates(
        Setup(bowl, source or Numbered(10_000), Memory()), plan, rate, start=bowl.start, **settings
    )


class Slow(Bowl):
    """A direction of curvature 4, and one of 0.002 that only a high rate moves along."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.curvature = torch.tensor([CURVATURE, 0.002], dtype=torch.float64)

    def forward_backward(self, batch, scale=1.0):
        loss = 0.5 * (self.curvature * self.weight**2).sum()
        (loss * scale).backward()
        return loss.detach()


@pytest.mark.parametrize("rate", [0.1, 0.4, 1.6])
def test_a_race_ends_below_the_edge_from_a_right_a_low_and_a_high_rate(rate):
    """The highest stable rate is the fastest, and 0.5 the edge."""
    found = raced(Slow(), rate=rate)
    assert found.best_rate == pytest.approx(0.4)
    assert found.rule_rate == rate
    assert found.learning_rate == pytest.approx(min(max(rate, 0.1), 0.4))
    assert found.refusal is None
    assert found.steps_taken == sum(arm.steps for arm in found.arms)


def test_the_rate_is_carried_to_the_length_of_the_run():
    found = raced(Slow(), rate=1.6, run_steps=800)
    assert found.learning_rate == pytest.approx(0.1)  # 0.4 · 8^(-2/3)
    assert found.run_steps == 800
    assert [each.code for each in found.caveats] == []


def test_a_run_far_longer_than_the_race_is_said_to_be_extrapolated():
    found = raced(Slow(), rate=0.4, run_steps=80_000, race=Race(steps=100, ramp=0))
    assert [(c.code, c.numbers["ratio"]) for c in found.caveats] == [("race.extrapolated", 800)]


def test_without_the_length_of_the_run_that_is_said():
    assert [each.code for each in raced(Slow(), rate=0.4).caveats] == ["race.length_unknown"]


def test_arms_of_a_long_run_are_longer():
    assert raced(Slow(), rate=0.4, run_steps=12_000).steps == 200


def test_data_too_small_to_leave_any_out_is_refused_before_a_step():
    bowl = Bowl()
    found = raced(bowl, Numbered(15))
    assert (found.refusal.code, found.arms, bowl.rates) == ("race.too_little_data", (), [])
    assert (found.learning_rate, found.best_rate, found.factor) == (0.1, None, 1.0)


def test_several_passes_over_little_data_are_said():
    found = raced(Slow(), Numbered(300), rate=0.4)
    assert found.held_out_samples == 64
    assert [each.code for each in found.caveats] == ["race.passes", "race.length_unknown"]
    assert found.caveats[0].numbers["passes"] == pytest.approx(100 / 59)


def test_where_every_rate_runs_away_the_rules_rate_is_kept():
    found = raced(Slow(), rate=0.6 * 2**10)
    assert found.refusal.code == "race.all_ran_away"
    assert found.learning_rate == 0.6 * 2**10
    assert len(found.arms) == 8


def test_a_loss_that_no_rate_lowers_says_nothing():
    class Flat(Bowl):
        def forward_backward(self, batch, scale=1.0):
            return super().forward_backward(batch, scale=0.0) * 0 + 1

    assert raced(Flat()).refusal.code == "race.no_progress"


class Told(Bowl):
    """1 at the start; then what was told of its rate, on the first and the second order."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def forward_backward(self, batch, scale=1.0):
        self.seen.append(batch)
        (0 * self.weight).backward()
        first, second = self.losses[round(self.rate, 3)] if self.rates else (1.0, 1.0)
        return torch.tensor(first if batch[0] % 2 else second)  # the orders begin one apart


def test_rates_whose_losses_differ_by_no_more_than_two_orders_of_the_data_say_nothing():
    """0.446, 0.437 and 0.441 at three rates; 0.427 at the best of them on another order."""
    told = {0.1: (0.446, 1.0), 0.2: (0.437, 0.427), 0.4: (0.441, 1.0)}
    found = raced(Told(told), run_steps=1000)
    assert (found.refusal.code, found.best_rate, found.learning_rate) == ("race.alike", None, 0.1)
    numbers = found.refusal.numbers
    assert numbers["difference"] == pytest.approx(0.009, rel=1e-4)
    assert numbers["scatter"] == pytest.approx(0.01, rel=1e-4)
    assert (
        "after 100 steps the losses at 0.1 to 0.4 differ by 0.009, and those of one rate with "
        "two data orders by 0.01" in found.refusal
    )
    told[0.2] = (0.437, 0.43)
    assert raced(Told(told), run_steps=1000).best_rate == pytest.approx(0.2, rel=0.2)


def test_a_loss_that_falls_by_less_than_it_scatters_says_nothing():
    told = {0.1: (0.999, 1.0), 0.2: (0.995, 1.003), 0.4: (1.4, 1.4), 0.05: (1.0, 1.2)}
    found = raced(Told(told), run_steps=1000)
    assert (found.refusal.code, found.learning_rate) == ("race.no_progress", 0.1)


def test_a_rate_that_was_the_best_on_one_order_may_stay():
    """0.2 is stepped down from, as on another order it is worse; a user's 0.2 is left alone."""
    told = {0.2: (0.50, 0.60), 0.1: (0.51, 0.52), 0.4: (0.9, 0.9), 0.05: (0.8, 0.8)}
    found = raced(Told(told), rate=0.2, run_steps=800)
    assert found.best_rate == pytest.approx(0.1)
    assert found.open_rates[1] == pytest.approx(2 * 0.2 * 8 ** (-1 / 3))
    assert found.learning_rate == 0.2


def test_a_training_stuck_at_some_orders_of_the_data_keeps_its_rate():
    """The product of two signs: one order leads out of the plateau, another does not."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(2000, 2, generator=generator).sign()
    torch.manual_seed(12)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    data = TensorDataset(inputs, inputs[:, :1] * inputs[:, 1:])
    source = source_from(DataLoader(data, batch_size=16, shuffle=True))
    step = step_from(model, loss_fn=torch.nn.MSELoss(), optimizer=optimizer)
    memory = backend_for(torch.device("cpu"))
    with preserved(model, optimizer) as snapshot:

        def start(rate):
            snapshot.restore()
            step.set_learning_rate(rate)

        found = race_rates(
            Setup(step, source, memory),
            BatchPlan(16),
            0.2,
            race=Race(steps=50, ramp=5, arms=4),
            start=start,
            run_steps=500,
        )
    assert (found.refusal.code, found.learning_rate) == ("race.alike", 0.2)
    assert found.refusal.numbers["difference"] < 0.1
    assert found.refusal.numbers["scatter"] > 0.2


def test_every_arm_is_told_to_the_observer():
    seen = []
    found = raced(Slow(), rate=0.4, observe=seen.append)
    assert tuple(seen) == found.arms


def test_averaged_weights_are_judged_where_the_rate_decays():
    """On a noisy bowl the average stands a higher rate than the weights do."""
    settings = {"rate": 0.05, "run_steps": 100, "race": Race(ramp=0, arms=8)}

    def best(averaged):
        torch.manual_seed(0)
        return raced(NoisyBowls(), averaged=averaged, **settings).best_rate

    assert best(averaged=True) > 1.5 * best(averaged=False)


def test_where_memory_ends_the_rules_rate_is_kept():
    class Large(Bowl):
        def forward_backward(self, batch, scale=1.0):
            raise torch.OutOfMemoryError("CUDA out of memory")

    found = raced(Large())
    assert (found.refusal.code, found.learning_rate, found.arms) == ("race.out_of_memory", 0.1, ())


def test_a_mistake_in_the_users_code_passes_through_with_a_note():
    class Wrong(Bowl):
        def forward_backward(self, batch, scale=1.0):
            raise KeyError("labels")

    with pytest.raises(KeyError) as caught:
        raced(Wrong())
    assert "race of learning rates at batch size 4" in caught.value.__notes__[0]
