"""The range test on problems whose largest stable rate is known."""

import math

import pytest
import torch

from batchfinder.learning_rate_range import QUIET, range_test, suggest_rate


class Source:
    unit, ceiling = "samples", None

    def count(self, batch):
        return 8

    def __init__(self, noise=0.0):
        self.generator = torch.Generator().manual_seed(0)
        self.noise = noise

    def rebuild(self, size):
        for _ in range(5):
            yield self.noise * torch.randn((), generator=self.generator)


class Bowl:
    """½ · curvature · (w − sample)²: gradient descent is stable below 2 / curvature."""

    def __init__(self, curvature, rate=1.0):
        self.curvature, self.rate, self.weight = curvature, rate, torch.tensor(1.0)
        self.gradient = None
        self.updates = 0

    def forward_backward(self, sample, scale=1.0):
        offset = self.weight - sample
        self.gradient = self.curvature * offset
        return 0.5 * self.curvature * offset**2

    def update(self):
        self.updates += 1
        self.weight = self.weight - self.rate * self.gradient

    def learning_rate(self):
        return self.rate

    def set_learning_rate(self, rate):
        self.rate = rate

    def zero_grad(self):
        self.gradient = None


@pytest.mark.parametrize("curvature", [0.5, 4.0, 100.0])
def test_the_rate_found_is_stable_and_not_tiny(curvature):
    found = range_test(Bowl(curvature), Source(), 8)
    edge = 2 / curvature
    assert edge / 100 < found < edge


def test_it_stops_once_the_loss_runs_away():
    bowl = Bowl(100.0)
    range_test(bowl, Source(noise=0.1), 8)
    assert bowl.updates < 115  # of 130: the edge, 0.02, comes at three quarters of the way
    assert math.isfinite(bowl.weight)


def test_noise_alone_gives_no_rate():
    """At the bottom of the bowl no rate lowers the loss."""
    bowl = Bowl(1.0)
    bowl.weight = torch.tensor(0.0)
    assert range_test(bowl, Source(noise=1.0), 8) is None


def test_an_unknown_rate_is_set():
    class Unknown(Bowl):
        def learning_rate(self):
            return None

    assert range_test(Unknown(1.0), Source(), 8) is not None


def test_an_empty_epoch_is_no_endless_loop():
    class Dropped(Source):
        def rebuild(self, size):
            return iter(())

        def ordinary(self, size):
            return torch.tensor(0.0)

    assert range_test(Bowl(1.0), Dropped(), 8) is not None


class Timed(Source):
    """A source that takes so many seconds a batch, and a clock that its reading moves on."""

    def __init__(self, seconds, left):
        super().__init__()
        self.seconds, self.left, self.read = seconds, left, 0

    def rebuild(self, size):
        for batch in super().rebuild(size):
            self.read += 1
            self.left -= self.seconds
            yield batch

    def seconds_left(self):
        return self.left


def test_where_reading_is_slow_the_first_batches_come_again():
    bowl, source = Bowl(4.0), Timed(0.32, left=13.0)
    found = range_test(bowl, source, 8, seconds_left=source.seconds_left)
    assert 0.5 / 100 < found < 0.5
    assert bowl.updates > 2 * QUIET
    assert source.read <= QUIET + 1
    assert source.left > 0.7 * 13.0 - 0.32


class Slow(Bowl):
    """A step of so many seconds on the clock of ``source``."""

    def __init__(self, seconds, source):
        super().__init__(4.0)
        self.seconds, self.source = seconds, source

    def forward_backward(self, sample, scale=1.0):
        self.source.left -= self.seconds
        return super().forward_backward(sample, scale)


@pytest.mark.parametrize(("seconds", "most"), [(0.1, 150), (1.0, QUIET), (30.0, 1)])
def test_where_steps_are_slow_there_are_fewer_or_none(seconds, most):
    source = Timed(0.0, left=30.0)
    bowl = Slow(seconds, source)
    found = range_test(bowl, source, 8, seconds_left=source.seconds_left)
    assert bowl.updates <= most
    assert source.left >= 0.7 * 30.0 - seconds
    assert (found is not None) == (seconds == 0.1)


def rising(count=60):
    return [1e-6] * QUIET + [1e-6 * 1.3**k for k in range(count)]


def test_the_suggestion_is_a_tenth_of_the_lowest():
    rates = rising()
    losses = [abs(k - 40) + 1.0 for k in range(len(rates))]
    assert suggest_rate(rates, losses) == pytest.approx(rates[40] / 10)


def test_one_lucky_batch_is_not_the_lowest():
    rates = rising()
    losses = [abs(k - 40) + 10.0 for k in range(len(rates))]
    losses[60] = 9.0
    assert suggest_rate(rates, losses) == pytest.approx(rates[40] / 10)


def test_nothing_is_suggested_where_the_loss_is_not_finite_from_the_start():
    assert suggest_rate(rising(), [math.nan] * 70) is None
    assert suggest_rate(rising()[:5], [1.0] * 5) is None


def test_what_follows_an_infinite_loss_is_not_looked_at():
    rates = rising()
    losses = [abs(k - 30) + 1.0 for k in range(len(rates))]
    losses[50], losses[60] = math.inf, -1e9
    assert suggest_rate(rates, losses) == pytest.approx(rates[30] / 10)
