"""How long a confirmation trains, what it forgives, and what it takes to go up or down."""

__all__ = [
    "ALLOWANCE_AT_TWICE",
    "FEWEST_STEPS",
    "HALVINGS",
    "MOSTLY",
    "MOST_ATTEMPTS",
    "SMALLEST_RAISE",
    "STEPS",
    "WORTHWHILE_LEAD",
]

STEPS = 40
"""Steps of one branch; over fewer, a lead is not looked at."""
FEWEST_STEPS = 10
"""With time for fewer, nothing is confirmed."""
ALLOWANCE_AT_TWICE = 0.05
"""At twice the rate the loss may end this share above its start (tests/benchmarks/regret.py)."""
HALVINGS = 3
"""How often a rate is halved before another size is tried."""
MOST_ATTEMPTS = 8
MOSTLY = 0.9
"""From this share of clipped updates on, the threshold decides how far they go."""
WORTHWHILE_LEAD = 0.1
"""A rate is raised where twice the rate led by this share (tests/benchmarks/regret.py)."""
SMALLEST_RAISE = 1.05
"""A rate that could be raised by less is left as it is."""
