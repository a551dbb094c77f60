"""What is said of a call as a whole, of frameworks and of several processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from batchfinder.units import format_bytes, format_seconds

__all__ = ["SENTENCES"]


def _about(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else format_seconds(seconds)


def _ended(seconds: float, given: bool) -> str:
    if given:
        return f"budget_seconds={seconds:g} ran out"
    return f"the default time of about {_about(seconds)} ran out (budget_seconds= sets it)"


def _plan(seconds: float) -> str:
    return f"this call takes up to about {_about(seconds)}; budget_seconds= sets its time"


def _longer(seconds: float, step_seconds: float) -> str:
    return (
        f"a step at your batch size takes about {format_seconds(step_seconds)}, so this call takes "
        f"up to about {_about(seconds)}"
    )


def _search(largest: int, seconds: float, given: bool) -> str:
    return f"{_ended(seconds, given)}: batches larger than {largest:,} were not tried"


def _only(seconds: float) -> str:
    return f"only {format_seconds(seconds)}" if seconds >= 0.001 else "no more than a step"


def _timing(spent: float, seconds: float, given: bool) -> str:
    return (
        f"{_ended(seconds, given)}: throughput was timed for {_only(spent)}, so it is less certain"
    )


def _not_confirmed(seconds: float, given: bool) -> str:
    return f"{_ended(seconds, given)}: the recommendation was not confirmed by training"


def _confirmed_short(steps: int, of: int, seconds: float, given: bool) -> str:
    return f"{_ended(seconds, given)}: the confirmation took {steps} of {of} steps"


_SESSION: Mapping[str, str | Callable[..., str]] = {
    "session.plan": _plan,
    "session.longer": _longer,
    "session.search": _search,
    "session.timing": _timing,
    "session.not_confirmed": _not_confirmed,
    "session.confirmed_short": _confirmed_short,
    "session.not_restored": "could not verify that this was restored: {what}",
}


_OLDER: Mapping[str, str] = {"older.said": "{text}"}


def _counted(names: tuple[str, ...], factor: float) -> str:
    return (
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} counted in optimizer steps, each "
        f"of which now covers {factor:.3g}x the samples; divide by that to keep the same training"
    )


_INTEGRATIONS: Mapping[str, str | Callable[..., str]] = {
    "integrations.counted": _counted,
    "integrations.shrinks": (
        "auto_find_batch_size is on and may still reduce the batch size later; turn it off to "
        "keep the one that was found"
    ),
}


def _begin(size: int, wrapper: str) -> str:
    return f"{size} ranks search together ({wrapper or 'bare module'})"


def _decides(rank: int, limit: int) -> str:
    return f"rank {rank} decides the largest batch size: of its {format_bytes(limit)} least is left"


def _memory(rank: int, least: int, most: int) -> str:
    return (
        f"rank {rank} has the least memory, {format_bytes(least)} where another has "
        f"{format_bytes(most)}: that is the limit of all"
    )


def _waited(rank: int, share: float) -> str:
    return (
        f"rank {rank} is the slowest: others waited for it for up to {100 * share:.0f}% of the "
        "call, and step times are its"
    )


def _rows(size: int, shown: int) -> str:
    said = f"{size} train together; they differ"
    return said if shown == size else f"{said} ({shown} shown, all in report.ranks)"


_RANKS: Mapping[str, str | Callable[..., str]] = {
    "ranks.begin": _begin,
    "ranks.decides": _decides,
    "ranks.memory": _memory,
    "ranks.waited": _waited,
    "ranks.rows": _rows,
    "ranks.alike": "{size} train together, with equal memory and equal speed",
    "ranks.devices": "the ranks' devices differ ({names}): the slowest sets the step time",
    "ranks.bare": (
        "the model is not wrapped for {size} ranks: the exchange of gradients is neither timed nor "
        "in the peak memory. Pass the wrapped model"
    ),
    "ranks.replicas": (
        "{size} ranks are {replicas} replicas: a global batch counts the samples of each replica "
        "once"
    ),
    "ranks.no_group": (
        "WORLD_SIZE={size}, but there is no process group: this process counted as the only one. "
        "Call torch.distributed.init_process_group() first, on every rank"
    ),
}


SENTENCES: Mapping[str, str | Callable[..., str]] = {
    **_SESSION,
    **_OLDER,
    **_INTEGRATIONS,
    **_RANKS,
}
