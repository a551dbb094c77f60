"""Which samples are a rank's own, where all ranks read the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from batchfinder.run.ranks import OwnPart
from batchfinder.run.ranks.alone import Alone


class Others(Alone):
    """Rank ``rank`` of four, two of which are one replica; the others tell ``theirs``."""

    size, replicas, alone = 4, 2, False

    def __init__(self, rank: int, theirs: Any = None) -> None:
        self.rank, self.theirs = rank, theirs

    def tell(self, where: str, value: Any) -> list[Any]:
        return [value, value, value, self.theirs or value]


@dataclass
class Stream:
    """Counts how often it is begun."""

    samples: range = range(6)
    begun: int = field(default=0)

    def __call__(self) -> Iterator[int]:
        self.begun += 1
        yield from self.samples


@pytest.mark.parametrize(("rank", "own"), [(0, [0, 2, 4]), (1, [0, 2, 4]), (2, [1, 3, 5])])
def test_ranks_of_one_replica_read_the_same_part_of_a_common_stream(
    rank: int, own: list[int]
) -> None:
    stream = Stream()
    start, share = OwnPart(Others(rank)).of_stream(stream)
    assert (list(start()), share) == (own, 2)
    assert stream.begun == 1
    assert (list(start()), stream.begun) == (own, 2)


def test_a_stream_of_a_ranks_own_is_left_whole_and_begun_once() -> None:
    stream = Stream()
    start, share = OwnPart(Others(3, theirs="another digest")).of_stream(stream)
    assert (list(start()), share) == ([0, 1, 2, 3, 4, 5], 1)
    assert stream.begun == 1


def test_an_empty_stream_stays_empty() -> None:
    start, _ = OwnPart(Others(0)).of_stream(Stream(range(0)))
    assert list(start()) == []


def test_indices_are_dealt_out_where_all_ranks_have_the_same() -> None:
    parts = [OwnPart(Others(rank)).of_indices(range(5)) for rank in range(4)]
    assert [list(each) for each in parts] == [[0, 2, 4], [0, 2, 4], [1, 3], [1, 3]]
    assert OwnPart(Others(0, theirs="another digest")).of_indices([3, 1]) == [3, 1]
