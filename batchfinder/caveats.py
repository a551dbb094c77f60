"""What was assumed, cut or left out, gathered from every stage, each said once."""

from __future__ import annotations

from batchfinder.base_pair import Base
from batchfinder.results import (
    Measurement,
    NoiseFindings,
    ProbeResult,
    Recommendation,
)
from batchfinder.session import Call
from batchfinder.wording import Caveat

__all__ = ["caveats_of"]

WEIGHTY = (
    ("confirm.failed", "confirm.nothing", "confirm.lead", "recommend.no_headroom"),
    ("confirm.", "recommend.no_noise", "recommend.far", "recommend.rate", "race.", "measure."),
)
"""Codes by their beginnings, the weightiest first."""


def caveats_of(
    call: Call,
    probed: ProbeResult,
    base: Base,
    *,
    measurements: tuple[Measurement, ...],
    findings: NoiseFindings,
    recommendation: Recommendation,
    lost: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Each once, in order of weight, and of the stages where that is the same."""
    said = [
        *call.bench.assumptions(),
        *probed.caveats,
        *base.caveats,
        *call.said,
        *findings.caveats,
        *(findings.training.caveats if findings.training else ()),
        *recommendation.caveats,
    ]
    shaky = [each for each in measurements if each.unstable or each.repeats < 2]
    if 2 * len(shaky) > len(measurements):
        said.append(Caveat("measure.unreliable", count=len(shaky), of=len(measurements)))
    said.extend(f"could not verify that this was restored: {each}" for each in lost)
    said.extend(call.cut)
    return tuple(sorted(dict.fromkeys(said), key=weight))


def weight(caveat: str) -> int:
    """0 for what the choice may fail by, 1 for what it rests on, 2 for the rest."""
    if not isinstance(caveat, Caveat):
        return 1
    for rank, codes in enumerate(WEIGHTY):
        if caveat.code.startswith(codes):
            return rank
    return 2
