"""Values that cannot be meant are refused before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from batchfinder.errors import InvalidArgument
from batchfinder.units import parse_bytes

__all__ = ["check"]


def _is_number(value: Any) -> bool:
    """NumPy's numbers count."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _at_least_one(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _none_or_more(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _above_zero(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value > 0


def _share(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 1


def _amount_of_bytes(value: Any) -> bool:
    try:
        return parse_bytes(value) > 0
    except (InvalidArgument, TypeError):
        return False


_WHOLE = "a whole number of at least 1"

# name: (rule, what is expected, way out)
_RULES: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "headroom": (_share, "a share from 0 to below 1", "write 0.05 for 5%"),
    "resolution": (_share, "a share from 0 (exact) to below 1", "write 0.02 for 2%"),
    "max_batch_size": (_at_least_one, _WHOLE, "leave it out for no ceiling of your own"),
    "multiple_of": (_at_least_one, _WHOLE, "leave it out to try every size"),
    "base_batch_size": (_at_least_one, _WHOLE, "leave it out for the loader's own"),
    "micro_batch": (_at_least_one, _WHOLE, "leave it out for the loader's batch size"),
    "samples": (_at_least_one, _WHOLE, "leave it out to stop where the interval is narrow enough"),
    "base_learning_rate": (
        _above_zero,
        "a rate above 0",
        "leave it out for the optimizer's own, or for a range test",
    ),
    "warmup_steps": (
        _none_or_more,
        "a whole number, 0 or more",
        "leave it out for as many as usual",
    ),
    "budget_seconds": (_above_zero, "seconds above 0", "leave it out for no limit"),
    "memory_limit": (
        _amount_of_bytes,
        'bytes above 0, such as 536870912, "512MiB" or "8GB"',
        "leave it out for what the device has free",
    ),
}


def check(**values: Any) -> None:
    """Refuse the first value that breaks its rule; ``None`` means left out.

    Raises:
        InvalidArgument: naming the argument, what was expected, what was found and the way out.
    """
    for name, value in values.items():
        fits, expected, way_out = _RULES[name]
        if value is not None and not fits(value):
            raise InvalidArgument(f"expected {name} to be {expected}; found {value!r}: {way_out}")
