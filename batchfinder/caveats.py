"""What was assumed, cut or left out, gathered from every stage, each said once."""

from __future__ import annotations

from collections.abc import Iterable

from batchfinder.about_ranks import alone_by_mistake
from batchfinder.session import Call
from batchfinder.wording import Caveat

__all__ = ["caveats_of"]

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
