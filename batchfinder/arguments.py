"""Invalid values are refused before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, TypeVar

from batchfinder import recommend, scaling
from batchfinder.errors import InvalidArgument
from batchfinder.protocols import LearningRateRule, Objective
from batchfinder.race import Race
from batchfinder.training import Search
from batchfinder.units import parse_bytes

__all__ = ["check", "objective_named", "rule_named"]

T = TypeVar("T", bound=Callable[..., Any])


def _is_number(value: Any) -> bool:
    """NumPy's numbers count."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _at_least_one(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


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
    "headroom": (_share, "a fraction from 0 to below 1", "write 0.05 for 5%"),
    "at_most": (_at_least_one, _WHOLE, "leave it out for no ceiling of your own"),
    "at_least": (_at_least_one, _WHOLE, "leave it out for no floor of your own"),
    "multiple_of": (_at_least_one, _WHOLE, "leave it out to try every size"),
    "base_batch_size": (_at_least_one, _WHOLE, "leave it out for the loader's own"),
    "micro_batch": (_at_least_one, _WHOLE, "leave it out for the loader's batch size"),
    "batch_size": (_at_least_one, _WHOLE, "pass the number of samples"),
    "steps": (_at_least_one, _WHOLE, "leave it out for two"),
    "training_steps": (_at_least_one, _WHOLE, "leave it out if it is unknown"),
    "base_learning_rate": (
        _above_zero,
        "a rate above 0",
        "leave it out for the optimizer's own, or for a range test",
    ),
    "noise": (
        lambda estimator: callable(getattr(estimator, "estimate", None)),
        "an estimator with a method estimate(step, batches, plan)",
        "leave it out for MicroBatchVariance(), or pass None for no noise scale",
    ),
    "search": (
        lambda search: isinstance(search, Search),
        "how the largest size is searched",
        "pass a value such as Search(resolution=0)",
    ),
    "budget_seconds": (_above_zero, "seconds above 0", "leave it out for no limit"),
    "memory_limit": (
        _amount_of_bytes,
        'bytes above 0, such as 536870912, "512MiB" or "8GB"',
        "leave it out for the free memory of the device",
    ),
}


def check(function: str, **values: Any) -> None:
    """Refuse the first value that breaks its rule; ``None`` means left out.

    Raises:
        InvalidArgument: naming the function, the argument, what was expected, what was found and
            the way out.
    """
    for name, value in values.items():
        fits, expected, way_out = _RULES[name]
        if value is not None and not fits(value):
            raise InvalidArgument(
                f"{function}: expected {name} to be {expected}; found {value!r}: {way_out}"
            )


def objective_named(function: str, given: Objective | str | None) -> Objective | None:
    """The objective itself, where its name was given.

    Raises:
        InvalidArgument: listing the names, where it is none of them and no function.
    """
    offered = {
        "fewest_samples": recommend.fewest_samples,
        "highest_throughput": recommend.highest_throughput,
        "largest": recommend.largest,
        "least_energy": recommend.least_energy,
        "shortest_time": recommend.shortest_time,
    }
    return _named(f"{function}: expected objective", given, offered)


def rule_named(
    function: str, given: LearningRateRule | Race | str | None
) -> LearningRateRule | Race | None:
    """The learning-rate rule itself, where its name was given.

    Raises:
        InvalidArgument: listing the names, where it is none of them and no function.
    """
    offered = {
        "adascale": scaling.adascale,
        "fixed": scaling.fixed,
        "linear": scaling.linear,
        "lower_only": scaling.lower_only,
        "square_root": scaling.square_root,
        "square_root_capped": scaling.square_root_capped,
    }
    if given == "race":
        return Race()
    if isinstance(given, Race):
        return given
    return _named(f"{function}: expected learning_rate_rule", given, offered, "'race'")


def _named(
    expected: str, given: T | str | None, offered: Mapping[str, T], *others: str
) -> T | None:
    if isinstance(given, str):
        if given in offered:
            return offered[given]
    elif given is None or callable(given):
        return given
    names = ", ".join((*map(repr, offered), *others))
    raise InvalidArgument(f"{expected} to be one of {names}, or a function; found {given!r}")
