"""Learning-rate rules against their limits, and the advice against its arithmetic."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchfinder.errors import InvalidArgument
from batchfinder.results import BatchPlan, Change, NoiseScale
from batchfinder.scaling import (
    adascale,
    critical_batch_size,
    fixed,
    linear,
    lower_only,
    rule_for,
    square_root,
    square_root_capped,
    trusted_range,
)
from batchfinder.wording import Caveat
from batchfinder.wording.advice import advice

RULES = (adascale, fixed, linear, lower_only, square_root, square_root_capped)
sizes = st.floats(1, 1e5)


def noise(value: float, low: float | None = None, high: float | None = None) -> NoiseScale:
    low, high = low or value, high or value
    return NoiseScale(value, low, high, samples=1000, estimator="by hand")


@pytest.mark.parametrize("rule", RULES)
@given(base=sizes, critical=st.floats(0.1, 1e6))
def test_the_base_batch_keeps_its_rate(rule, base, critical):
    assert rule(0.1, base, base, noise(critical)) == pytest.approx(0.1)
    assert rule(0.1, base, base, None) == pytest.approx(0.1)


@pytest.mark.parametrize("rule", RULES)
@given(base=sizes, batch=sizes, critical=st.floats(0.1, 1e6))
def test_a_larger_batch_never_gets_a_smaller_rate(rule, base, batch, critical):
    one, two = (rule(0.1, base, size, noise(critical)) for size in (batch, batch * 1.5))
    assert two >= one * (1 - 1e-12)


@given(base=sizes, batch=sizes, critical=st.floats(0.1, 1e6))
def test_capped_rules_stay_below_the_uncapped(base, batch, critical):
    known = noise(critical)
    assert adascale(1, base, batch, known) <= linear(1, base, batch) * (1 + 1e-12)
    assert square_root_capped(1, base, batch, known) <= square_root(1, base, batch) * (1 + 1e-12)


@given(base=sizes, batch=sizes, critical=st.floats(0.1, 1e6))
def test_the_capped_square_root_is_the_root_of_adascale(base, batch, critical):
    root, whole = (rule(1, base, batch, noise(critical)) for rule in (square_root_capped, adascale))
    assert root**2 == pytest.approx(whole)


def test_far_below_the_critical_batch_size_the_caps_do_nothing():
    huge = noise(1e12)
    assert adascale(0.1, 32, 512, huge) == pytest.approx(1.6)
    assert square_root_capped(0.001, 32, 512, huge) == pytest.approx(0.004)


def test_far_above_the_critical_batch_size_the_rate_saturates():
    known = noise(64)
    assert adascale(0.1, 64, 1e9, known) == pytest.approx(0.2)
    assert square_root_capped(0.1, 64, 1e9, known) == pytest.approx(0.1 * math.sqrt(2))


def test_rates_are_capped_at_the_upper_end_of_the_interval():
    assert adascale(0.1, 64, 1e9, noise(64, 32, 128)) == pytest.approx(0.3)
    assert adascale(0.1, 64, 1e9, noise(64, 32, math.inf)) == pytest.approx(0.5)  # 4 × 64
    assert adascale(0.1, 64, 1e9, noise(math.inf, 32, math.inf)) == pytest.approx(0.3)
    assert square_root_capped(0.1, 64, 1e9, noise(64, 32, 128)) == pytest.approx(0.1 * 3**0.5)


def test_downward_the_rate_falls_by_the_uncapped_rule():
    assert adascale(0.1, 64, 16, noise(1)) == pytest.approx(0.025)
    assert square_root_capped(0.1, 64, 16, noise(1)) == pytest.approx(0.05)


def test_without_a_noise_scale_sgd_is_careful_both_ways():
    assert adascale(0.1, 32, 128, None) == pytest.approx(0.2)
    assert adascale(0.1, 128, 32, None) == pytest.approx(0.025)


def test_a_noise_scale_known_only_from_below_counts_as_its_lower_end():
    assert critical_batch_size(noise(math.inf, 40, math.inf)) == 40
    assert critical_batch_size(noise(90, 40, math.inf)) == 90
    assert critical_batch_size(None) is None


def test_where_nothing_is_known_the_rate_is_kept_upward_only():
    for family in ("adafactor", "shampoo", "unknown", "a new one"):
        chosen = rule_for(family)
        assert chosen.rule(0.1, 32, 128, None) == 0.1
        assert chosen.rule(0.1, 128, 32, None) == pytest.approx(0.05)
        assert chosen.caveat == "rate_unknown"


def test_families_have_their_rules():
    assert rule_for("sgd").rule is adascale
    assert rule_for("sgd-momentum").rule is adascale
    assert rule_for("adam").rule is square_root_capped
    assert not rule_for("adam").caveat
    said = Caveat(f"recommend.{rule_for('lion').caveat}", optimizer="lion")
    assert "Lion is by analogy with Adam (untested here)" in said


def test_an_optimizer_that_finds_its_rate_keeps_the_users_and_is_never_raised():
    free = rule_for("parameter-free")
    assert free.rule(1.0, 32, 1024, noise(100)) == free.rule(1.0, 32, 4, None) == 1.0
    assert free.highest is None


@pytest.mark.parametrize("rule", [linear, square_root, adascale, square_root_capped])
def test_a_batch_of_nothing_is_refused(rule):
    with pytest.raises(InvalidArgument, match="above zero"):
        rule(0.1, 0, 32, None)


def test_the_trusted_range_is_sixteen_each_way():
    assert trusted_range(64) == (4, 1024)


def advised(change, micro_batch=16):
    return "\n".join(advice(change, BatchPlan(micro_batch)))


def test_no_advice_without_a_change():
    assert advised(Change("adam", 64, 64, 64)) == advised(None) == ""


def test_advice_keeps_what_theory_keeps():
    said = advised(Change("adam", 64, 256, 16, base_rate=1e-3, rate=2e-3, critical=64))
    assert "The same number of epochs has 0.25x the optimizer steps" in said
    # (1 + 64/256) / (1 + 64/64) = 0.625 steps, times 4 = 2.5 samples
    assert "takes about 0.62x the optimizer steps, or 2.5x the samples" in said
    # 1 - 4 · 0.1 and 1 - 4 · 0.001; 0.999⁴
    assert "beta1 0.9 would become 0.6 and beta2 0.999 0.996" in said
    assert "0.999 becomes 0.996" in said
    # λ ∝ B / rate: 4 / 2
    assert "multiply it by 2 " in said
    assert "below 32 they are noisy" in said


def test_beta_advice_is_undefined_beyond_a_factor_of_ten():
    assert "undefined" in advised(Change("adam", 32, 512, 512))


def test_the_steps_to_the_same_loss_follow_the_critical_batch_size():
    assert Change("sgd", 64, 256, 256, critical=64).steps_factor == pytest.approx(0.625)
    assert Change("sgd", 64, 256, 256).steps_factor is None
