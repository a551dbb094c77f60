"""Sentences about the time of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchfinder.units import format_seconds

__all__ = ["SENTENCES"]


def _about(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else format_seconds(seconds)


def _ended(seconds: float, given: bool) -> str:
    if given:
        return f"budget_seconds={seconds:g} ran out"
    return f"the default budget of about {_about(seconds)} ran out (set it with budget_seconds=)"


def _limit(seconds: float, given: bool) -> str:
    if given:
        return f"budget_seconds={seconds:g}"
    return f"the default budget of about {_about(seconds)} (set it with budget_seconds=)"


def _plan(seconds: float) -> str:
    return f"this call takes up to about {_about(seconds)}; set its time with budget_seconds="


def _longer(seconds: float, step_seconds: float) -> str:
    return (
        f"a step at your batch size takes about {format_seconds(step_seconds)}, so this call takes "
        f"up to about {_about(seconds)}"
    )


def _search(largest: int, seconds: float, given: bool) -> str:
    return f"{_ended(seconds, given)}: batches larger than {largest:,} were not tried"


def _timing(spent: float, seconds: float, given: bool) -> str:
    lasted = f"only {format_seconds(spent)}" if spent >= 0.001 else "no more than a step"
    return f"{_ended(seconds, given)}: throughput was timed for {lasted}, so it is less certain"


def _not_confirmed(seconds: float, given: bool) -> str:
    return (
        f"{_limit(seconds, given)} left too little time to confirm the recommendation by training"
    )


def _confirmed_short(steps: int, of: int, seconds: float, given: bool) -> str:
    return f"{_limit(seconds, given)} left time for {steps} of the confirmation's {of} steps"


def _left(error: str, seconds: float) -> str:
    return (
        f"ended by {error} after {format_seconds(seconds)}; all changes made by the call are undone"
    )


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    "session.plan": _plan,
    "session.longer": _longer,
    "session.search": _search,
    "session.timing": _timing,
    "session.not_confirmed": _not_confirmed,
    "session.confirmed_short": _confirmed_short,
    "session.left": _left,
    "session.not_restored": "could not verify that this was restored: {what}",
}
