"""The protocol between ranks, with threads in place of processes and a store in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from batchfinder.errors import OutOfTime, PeerFailed, RanksNotTogether
from batchfinder.run.ranks import ALONE, MetRanks
from batchfinder.run.ranks.group import met


def join(
    store: Any, rank: int, size: int, *, meeting: float = 5.0, answer: float = 5.0, **call: str
) -> MetRanks:
    return met(
        store,
        rank,
        size,
        replicas=size,
        described=call,
        meeting_seconds=meeting,
        answer_seconds=answer,
    )


def on_ranks(
    work: Callable[[MetRanks], Any], size: int = 2, store: Any = None, **seconds: float
) -> list[Any]:
    """What ``work`` returns or raises, with a thread for every rank."""
    store = store or HashStore()
    found: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            found[rank] = work(join(store, rank, size, **seconds))
        except BaseException as error:  # noqa: BLE001  # Ctrl-C too
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads), "a rank waits for ever"
    return found


def run_out(now: bool = True) -> None:
    if now:
        raise torch.OutOfMemoryError("no room")


def fail(text: str) -> None:
    raise ValueError(text)


def test_every_rank_hears_all_values_in_order() -> None:
    assert on_ranks(lambda ranks: ranks.tell("here", 10 * ranks.rank), 3) == [[0, 10, 20]] * 3


def test_messages_leave_no_keys_behind_but_the_last() -> None:
    store = HashStore()

    def work(ranks: MetRanks) -> list[list[int]]:
        return [ranks.tell("here", ranks.rank) for _ in range(50)]

    assert on_ranks(work, store=store) == [[[0, 1]] * 50] * 2
    assert store.num_keys() <= 2 + 2 * 2  # the numbers of calls, and two turns of two ranks


def test_out_of_memory_on_one_rank_is_out_of_memory_on_all_with_one_text() -> None:
    def work(ranks: MetRanks) -> None:
        with ranks.together("a step"):
            if ranks.rank == 1:
                raise torch.OutOfMemoryError("no room")

    found = on_ranks(work, 3)
    assert [type(each) for each in found] == [torch.OutOfMemoryError] * 3
    assert {str(each) for each in found} == {"no room (on rank 1 of 3)"}


def test_the_others_stop_at_their_next_message_wherever_that_is() -> None:
    reached = []

    def work(ranks: MetRanks) -> None:
        with ranks.together("a step"):
            if ranks.rank == 1:
                raise torch.OutOfMemoryError("no room")
            ranks.ask("a collective")
            reached.append("the collective")

    assert all(isinstance(each, torch.OutOfMemoryError) for each in on_ranks(work))
    assert reached == []


def test_after_out_of_memory_the_ranks_go_on_together() -> None:
    def work(ranks: MetRanks) -> list[int]:
        try:
            with ranks.together("an attempt"), ranks.together("a step"):
                run_out(ranks.rank == 0)
        except torch.OutOfMemoryError:
            return ranks.tell("afterwards", ranks.rank)
        raise AssertionError

    assert on_ranks(work) == [[0, 1]] * 2


@pytest.mark.parametrize("kind", [OutOfTime, StopIteration])
def test_where_the_data_ends_on_one_rank_it_ends_on_all(kind: type[Exception]) -> None:
    def work(ranks: MetRanks) -> None:
        with ranks.together("a draw"):
            if ranks.rank == 0:
                raise kind("no more")

    assert [type(each) for each in on_ranks(work)] == [kind] * 2


def test_out_of_memory_outweighs_the_end_of_data() -> None:
    def work(ranks: MetRanks) -> None:
        with ranks.together("a draw"):
            raise OutOfTime("no more") if ranks.rank == 0 else torch.OutOfMemoryError("no room")

    assert [type(each) for each in on_ranks(work)] == [torch.OutOfMemoryError] * 2


def test_an_error_on_one_rank_is_its_own_there_and_a_failed_peer_elsewhere() -> None:
    mistake = ValueError("shape")

    def work(ranks: MetRanks) -> None:
        with ranks.together("a step"):
            if ranks.rank == 1:
                raise mistake

    own, other = reversed(on_ranks(work))
    assert own is mistake
    assert isinstance(other, PeerFailed)
    assert (other.rank, other.kind, other.message) == (1, "ValueError", "shape")


def test_a_failed_rank_outweighs_memory_so_that_no_rank_searches_on() -> None:
    def work(ranks: MetRanks) -> None:
        with ranks.together("a step"):
            raise ValueError("bug") if ranks.rank == 1 else torch.OutOfMemoryError("no room")

    found = on_ranks(work)
    assert [type(each) for each in found] == [PeerFailed, ValueError]


def test_the_same_error_on_all_is_nobodys_failure_and_they_go_on() -> None:
    def work(ranks: MetRanks) -> list[int]:
        try:
            with ranks.together("outer"), ranks.together("inner"):
                fail(f"rank {ranks.rank}")
        except ValueError as error:
            assert str(error) == f"rank {ranks.rank}"
            return ranks.tell("afterwards", ranks.rank)

    assert on_ranks(work) == [[0, 1]] * 2


def test_ctrl_c_on_one_rank_ends_the_others_without_a_timeout() -> None:
    def work(ranks: MetRanks) -> None:
        with ranks.together("a step"):
            if ranks.rank == 0:
                raise KeyboardInterrupt
            ranks.ask("a collective")

    found = on_ranks(work, answer=1e6)  # longer than this test would be waited for
    assert [type(each) for each in found] == [KeyboardInterrupt, PeerFailed]


def test_a_rank_that_leaves_between_two_messages_is_noticed_by_who_waits_for_it() -> None:
    def work(ranks: MetRanks) -> None:
        if ranks.rank == 0:
            ranks._board._next += 1  # cut after the turn was counted, before it was sent
            ranks.left_with(KeyboardInterrupt())
        else:
            ranks.ask("a collective")

    assert isinstance(on_ranks(work)[1], PeerFailed)


def test_another_way_is_named_by_both_places_at_once() -> None:
    found = on_ranks(lambda ranks: ranks.tell(f"size {ranks.rank}", None))
    assert all(isinstance(each, RanksNotTogether) for each in found)
    assert all("'size 0'" in str(each) and "'size 1'" in str(each) for each in found)


def test_a_stalled_rank_is_named_with_the_place() -> None:
    def work(ranks: MetRanks) -> None:
        if ranks.rank == 0:
            ranks.tell("a trial of 8", None)

    with pytest.raises(RanksNotTogether, match=r"'a trial of 8'.*rank 1 for 0.2 s"):
        raise on_ranks(work, answer=0.2)[0]


def test_nothing_is_told_once_the_ranks_have_parted() -> None:
    def work(ranks: MetRanks) -> Any:
        try:
            ranks.tell(f"{ranks.rank}", None)
        except RanksNotTogether:
            return ranks.tell("afterwards", None)

    assert all("diverged" in str(each) for each in on_ranks(work))


def test_a_rank_alone_gets_an_error_in_time_and_the_next_call_meets() -> None:
    store = HashStore()
    with pytest.raises(RanksNotTogether, match=r"rank 1 did not make it within 0\.1 s"):
        join(store, 0, 2, meeting=0.1)
    assert on_ranks(lambda ranks: ranks.tell("here", ranks.rank), store=store) == [[0, 1]] * 2


def test_other_arguments_are_refused_by_name() -> None:
    store = HashStore()
    found: dict[int, Exception] = {}

    def run(rank: int) -> None:
        try:
            join(store, rank, 2, at_most=str(8 + rank))
        except RanksNotTogether as error:
            found[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert "at_most '8' on rank 0 and '9' on rank 1" in str(found[0])
    assert set(found) == {0, 1}


def test_the_clock_is_that_of_the_slowest_rank() -> None:
    store = HashStore()
    readings: dict[int, list[float]] = {}

    def run(rank: int) -> None:
        ranks = join(store, rank, 2)
        now = [0.0]
        ranks._seconds, ranks._since = lambda: now[0], 0.0
        readings[rank] = []
        for step in (1.0, 2.0):
            now[0] += step if rank == 0 else 3.0 / step
            readings[rank].append(ranks.clock())

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert readings == {0: [3.0, 5.0], 1: [3.0, 5.0]}


def test_alone_says_and_waits_for_nothing() -> None:
    assert ALONE.meet({"function": "find_batch_size"}) is ALONE
    assert ALONE.tell("here", 7) == [7]
    with pytest.raises(ValueError, match="mine"), ALONE.together("a step"):
        raise ValueError("mine")
    assert (ALONE.rank, ALONE.size, ALONE.replicas, ALONE.waited_seconds) == (0, 1, 1, 0.0)
