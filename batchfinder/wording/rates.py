"""The learning rates of several parameter groups in words."""

from __future__ import annotations

from collections.abc import Sequence

from batchfinder.rates import GroupRate
from batchfinder.units import format_rate

__all__ = ["before_words", "groups_sentence", "rates_words"]

MOST_GROUPS_NAMED = 3


def rates_words(rates: Sequence[GroupRate]) -> str:
    """Every group's recommended rate; of many, the factor; empty where one rate is all there is."""
    found = [each.recommended for each in rates if each.recommended is not None]
    factor = next((each.factor for each in rates if each.factor is not None), None)
    if len({format_rate(rate) for rate in found}) < 2 or factor is None:
        return ""
    if len(found) > MOST_GROUPS_NAMED:
        return f" at {factor:.3g} times the learning rate of each of your {len(found)} groups"
    return f" at learning rates {', '.join(map(format_rate, found))}"


def before_words(rates: Sequence[GroupRate], base: float) -> str:
    """The user's own rates where several are named, else ``base``; empty where they are many."""
    if not rates_words(rates):
        return format_rate(base)
    if len(rates) > MOST_GROUPS_NAMED:
        return ""
    return ", ".join(format_rate(each.base) for each in rates)


def groups_sentence(rates: Sequence[GroupRate]) -> str:
    """Every group's old and new rate, where they differ; empty where one rate is all there is."""
    if len({(rate.base, rate.recommended) for rate in rates}) < 2:
        return ""
    factor = next((rate.factor for rate in rates if rate.factor is not None), None)
    if factor is None:
        return ""
    several = len({rate.optimizer for rate in rates}) > 1
    moves = (
        f"{rate.name if several else ''} group {rate.group}".strip()
        + f" {format_rate(rate.base)} -> {format_rate(rate.recommended)}"
        for rate in rates
    )
    return f"multiply every group's rate by {factor:.3g}: {', '.join(moves)}"
