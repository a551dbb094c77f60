"""What a call says besides its numbers: what was assumed, cut or left out; which rank decides."""

from __future__ import annotations

from collections.abc import Iterable

from batchfinder.rank_facts import RankFacts, deciding_rank, do_differ, slowest_rank, waiting_shares
from batchfinder.results import Limit, ProbeResult
from batchfinder.run.ranks import launched_without_group
from batchfinder.session import Call
from batchfinder.wording import Caveat

__all__ = ["about_ranks", "alone_by_mistake", "caveats_of", "facts_of_ranks"]


def facts_of_ranks(call: Call, probed: ProbeResult) -> tuple[RankFacts, ...]:
    """What each rank has, in order of rank; empty where there is one process."""
    ranks, bench = call.bench.step.ranks, call.bench
    if ranks.alone:
        return ()
    largest = [each for each in probed.trials if each.batch_size == probed.max_batch_size]
    peaks = [each.reserved_bytes or each.peak_bytes for each in largest if each.fits]
    rooms = bench.rooms.get(peaks[-1] or 0) if peaks else None
    own = RankFacts(
        rank=ranks.rank,
        device=str(bench.step.device),
        device_name="simulated memory" if bench.memory.is_simulated else bench.memory.name,
        limit_bytes=bench.own_limit_bytes,
        waited_seconds=ranks.waited_seconds,
        room_bytes=None if rooms is None else rooms[ranks.rank],
        ran_out=ranks.ran_out,
    )
    return tuple(ranks.tell("what each rank has", own))


def about_ranks(
    call: Call, facts: tuple[RankFacts, ...], probed: ProbeResult
) -> tuple[Caveat, ...]:
    """Which rank decides the size, which one the others wait for, and what was not seen."""
    if not facts:
        return ()
    said = []
    decides = deciding_rank(facts) if probed.limited_by is Limit.MEMORY else None
    limits = [each.limit_bytes for each in facts]
    if decides is not None:
        said.append(Caveat("ranks.decides", rank=decides, limit=limits[decides]))
    elif do_differ(limits):
        least, most = min(limits), max(limits)
        said.append(Caveat("ranks.memory", rank=limits.index(least), least=least, most=most))
    devices = sorted({each.device_name for each in facts})
    if len(devices) > 1:
        said.append(Caveat("ranks.devices", names=" and ".join(devices)))
    seconds = sum(call.spent.values())
    slowest = slowest_rank(facts, seconds)
    if slowest is not None:
        share = max(waiting_shares(facts, seconds)) - waiting_shares(facts, seconds)[slowest]
        said.append(Caveat("ranks.waited", rank=slowest, share=share))
    if call.replicas < len(facts):
        said.append(Caveat("ranks.replicas", size=len(facts), replicas=call.replicas))
    elif not call.wrapping.exchanges:
        said.append(Caveat("ranks.bare", size=len(facts)))
    return tuple(said)


def alone_by_mistake() -> tuple[Caveat, ...]:
    """What a launcher's process is told that has formed no group with the others."""
    launched = launched_without_group()
    return () if launched is None else (Caveat("ranks.no_group", size=launched),)


WEIGHTY = (
    ("confirm.failed", "confirm.nothing", "confirm.lead", "recommend.no_headroom"),
    (
        "confirm.",
        "recommend.no_noise",
        "recommend.far",
        "recommend.rate",
        "race.",
        "measure.",
        "base.",
        "session.not_restored",
    ),
)
"""Codes by their beginnings, the weightiest first."""


def caveats_of(call: Call, *stages: Iterable[Caveat]) -> tuple[Caveat, ...]:
    """What was assumed of the training, and what each stage has to say: each once, by weight.

    In the order of the stages where the weight is the same.
    """
    said = dict.fromkeys(
        caveat
        for stage in (call.bench.assumptions(), *stages, alone_by_mistake())
        for caveat in stage
    )
    return tuple(sorted(said, key=weight))


def weight(caveat: Caveat) -> int:
    """0 for what the choice may fail by, 1 for what it rests on, 2 for the rest."""
    for rank, codes in enumerate(WEIGHTY):
        if caveat.code.startswith(codes):
            return rank
    return 2
