"""Who decides, and whom the others wait for, where several ranks search together."""

from __future__ import annotations

from batchfinder.results import RankFacts
from batchfinder.run.ranks import Wrapping, launched_without_group
from batchfinder.session import Call
from batchfinder.wording import Caveat

__all__ = ["about_ranks", "facts_of_ranks"]

_WORTH_SAYING = 0.1
"""Share of the call that one rank waits more than another."""


def facts_of_ranks(call: Call) -> tuple[RankFacts, ...]:
    """What each rank has, in order of rank; empty where there is one process."""
    ranks, bench = call.bench.step.ranks, call.bench
    if ranks.alone:
        return ()
    own = RankFacts(
        rank=ranks.rank,
        device=str(bench.step.device),
        device_name=bench.memory.name,
        limit_bytes=bench.own_limit_bytes,
        waited_seconds=ranks.waited_seconds,
    )
    return tuple(ranks.tell("what each rank has", own))


def about_ranks(call: Call, facts: tuple[RankFacts, ...], wrapping: Wrapping) -> tuple[Caveat, ...]:
    """Which rank decides the size, which one the others wait for, and what was not seen."""
    if not facts:
        launched = launched_without_group()
        return () if launched is None else (Caveat("ranks.no_group", size=launched),)
    said = []
    least = min(facts, key=lambda each: each.limit_bytes)
    most = max(each.limit_bytes for each in facts)
    if least.limit_bytes < most:
        said.append(Caveat("ranks.memory", rank=least.rank, least=least.limit_bytes, most=most))
    waited = [each.waited_seconds for each in facts]
    share = (max(waited) - min(waited)) / max(sum(call.spent.values()), 1e-9)
    if share > _WORTH_SAYING:
        said.append(Caveat("ranks.waited", rank=waited.index(min(waited)), share=min(share, 1.0)))
    if call.replicas < len(facts):
        said.append(Caveat("ranks.replicas", size=len(facts), replicas=call.replicas))
    elif not wrapping.exchanges:
        said.append(Caveat("ranks.bare", size=len(facts)))
    return tuple(said)
