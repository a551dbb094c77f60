"""What each of several ranks had in a call; who decided, and whom the others waited for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["RankFacts", "deciding_rank", "do_differ", "slowest_rank", "waiting_shares"]

WORTH_SAYING = 0.1
"""Share of the call that one rank waits more than another."""
_APART = 0.02
"""Share by which two amounts of memory differ more than readings of one machine do."""


@dataclass(frozen=True)
class RankFacts:
    """What one of several ranks has, and how long it waited for the others in the call."""

    rank: int
    device: str
    device_name: str
    limit_bytes: int
    waited_seconds: float
    room_bytes: int | None = None
    """What was left of the limit at the largest batch size that fitted."""
    ran_out: int = 0
    """How often memory ran out on this rank."""


def deciding_rank(facts: Sequence[RankFacts]) -> int | None:
    """The rank whose memory ended the search; ``None`` where it is not one alone.

    The only one on which memory ran out; else the one with clearly the least left.
    """
    ended = [each.rank for each in facts if each.ran_out]
    if len(ended) == 1:
        return ended[0]
    rooms = [(each.room_bytes, each.rank) for each in facts if each.room_bytes is not None]
    if len(rooms) < 2:
        return None
    (least, rank), (second, _) = sorted(rooms)[:2]
    return rank if second - least > _APART * min(each.limit_bytes for each in facts) else None


def slowest_rank(facts: Sequence[RankFacts], seconds: float) -> int | None:
    """The rank that waited least for the others in a call of ``seconds``; ``None`` if all alike."""
    shares = waiting_shares(facts, seconds)
    if max(shares, default=0.0) - min(shares, default=0.0) <= WORTH_SAYING:
        return None
    return facts[shares.index(min(shares))].rank


def waiting_shares(facts: Iterable[RankFacts], seconds: float) -> list[float]:
    """Which share of a call of ``seconds`` each rank waited for the others."""
    return [min(each.waited_seconds / max(seconds, 1e-9), 1.0) for each in facts]


def do_differ(amounts: Iterable[int | None]) -> bool:
    """Whether amounts of memory differ by more than two readings of one machine would."""
    known = [each for each in amounts if each is not None]
    return bool(known) and max(known) - min(known) > _APART * abs(max(known))
