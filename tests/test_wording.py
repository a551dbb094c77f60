"""Caveats are codes and numbers that read as sentences, and survive JSON, pickle and copy."""

from __future__ import annotations

import copy
import pickle

import pytest

from batchfinder.encoding import decode, encode
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


def test_one_is_singular_and_thousands_are_separated() -> None:
    assert "only 1 step at" in Caveat("recommend.short_epoch", steps=1, batch=512, length=512)
    assert "only 2 steps at" in Caveat("recommend.short_epoch", steps=2, batch=256, length=512)
    assert "1 warm-up step had" in Caveat("noise.steps_not_finite", count=1)
    assert "1,045 of 2,000 micro-batches" in Caveat("noise.not_finite", count=1045, of=2000)
    assert "with 2,880 samples" in Caveat("noise.unbounded", samples=2880, unit="samples", low=340)


@pytest.mark.parametrize(
    ("caveat", "expected"),
    [
        (Caveat("measure.slow", size=1, seconds=0.007, own=32), "other than your own 32"),
        (Caveat("measure.unreliable", count=1, of=1), "the timing varied by more than 20%"),
        (Caveat("measure.stopped", seconds=0.05, left=1, of=1), "timed 1 size for 50 ms"),
    ],
)
def test_one_size_is_not_spoken_of_as_several(caveat: Caveat, expected: str) -> None:
    assert expected in caveat
    assert "ranking" not in caveat
