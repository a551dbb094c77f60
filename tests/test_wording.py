"""Caveats are codes and numbers that read as sentences, and survive JSON, pickle and copy."""

from __future__ import annotations

import copy
import pickle

import pytest

from batchfinder.report.encoding import decode, encode
from batchfinder.wording import Caveat


def made() -> Caveat:
    return Caveat("measure.unreliable", count=3, of=9)


def test_it_reads_as_its_sentence() -> None:
    assert made().startswith("timings at 3 of 9 sizes varied by more than 20%")
    assert (made().code, dict(made().numbers)) == ("measure.unreliable", {"count": 3, "of": 9})


@pytest.mark.parametrize(
    "trip",
    [
        lambda caveat: pickle.loads(pickle.dumps(caveat)),
        copy.deepcopy,
        lambda caveat: decode(Caveat, encode(caveat)),
    ],
)
def test_it_survives(trip) -> None:
    there = trip(made())
    assert (there, there.code, dict(there.numbers)) == (
        made(),
        "measure.unreliable",
        {"count": 3, "of": 9},
    )


@pytest.mark.parametrize("code", ["measure.nothing_like_it", "nowhere.at_all"])
def test_a_code_without_a_sentence_is_refused(code: str) -> None:
    with pytest.raises(KeyError):
        Caveat(code)
