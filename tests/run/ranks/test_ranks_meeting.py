"""A rank that comes late, just as another one gives the meeting up."""

from __future__ import annotations

import threading
from typing import Any

from torch.distributed import HashStore

from batchfinder.run.ranks import MetRanks
from batchfinder.run.ranks.group import met


def join(store: Any, rank: int, meeting_seconds: float) -> MetRanks:
    return met(
        store,
        rank,
        2,
        replicas=2,
        described={"function": "test"},
        meeting_seconds=meeting_seconds,
        answer_seconds=5.0,
    )


class LateStore:
    """Before rank 0 takes its message back, rank 1 answers it."""

    def __init__(self) -> None:
        self._store = HashStore()
        self.found: dict[int, Any] = {}
        self.late = threading.Thread(target=self.run, args=(1, self._store, 5.0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def delete_key(self, key: str) -> bool:
        if self.late.ident is None:
            self.late.start()
            while not self._store.check(["batchfinder/0/0/1"]):
                pass
        return bool(self._store.delete_key(key))

    def run(self, rank: int, store: Any, meeting_seconds: float) -> None:
        try:
            ranks = join(store, rank, meeting_seconds)
            self.found[rank] = [ranks.tell(place, rank) for place in ("one", "other")]
        except Exception as error:  # noqa: BLE001  # shown by what is asserted
            self.found[rank] = error


def test_who_answers_a_message_that_is_being_withdrawn_meets_in_the_same_turn() -> None:
    store = LateStore()
    store.run(0, store, 0.05)
    store.late.join(30)
    assert store.found == {rank: [[0, 1], [0, 1]] for rank in range(2)}
