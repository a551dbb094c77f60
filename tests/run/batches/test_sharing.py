"""Where a sample takes long, all workers read at every batch; elsewhere each makes a whole one."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes import FakeClock
from torch.utils.data import DataLoader, Dataset, default_collate

from batchfinder.run.batches import reading, source_from
from batchfinder.run.batches import sharing as module
from batchfinder.run.batches.requests import Indexing, Ticket, Want
from batchfinder.run.batches.sharing import LONG_SECONDS, Sharing, portions


class Slow(Dataset[Any]):
    """Each sample says which worker read it, and draws a random number."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        info = torch.utils.data.get_worker_info()
        return torch.tensor(
            [float(index), -1.0 if info is None else info.id, torch.rand(()).item()]
        )


class Recorded:
    """A reader that keeps what it was asked for."""

    def __init__(
        self, workers: int, indexing: Indexing = Indexing.ONE_BY_ONE, collate: Any = default_collate
    ) -> None:
        self.workers, self.requests = workers, []
        self.served = SimpleNamespace(indexing=indexing, collate=collate)

    def submit(self, request: Any) -> Any:
        self.requests.append(request)
        read = [torch.tensor(index) for index in request.indices]
        answer = read if request.want is Want.SAMPLES else default_collate(read)
        return Ticket(request, None, answer, done=True)


def sharing(a_sample: float, clock: Any = None, **reader: Any) -> tuple[Sharing, Recorded]:
    """As after reading samples that took ``a_sample`` seconds each."""
    asked: Any = Recorded(**{"workers": 4, **reader})
    found = Sharing(asked, clock=clock or FakeClock())
    done: Any = SimpleNamespace(seconds=3 * a_sample, request=SimpleNamespace(indices=(1, 2, 3)))
    found.note(done)
    return found, asked


def drawn(count: int) -> list[tuple[int, int]]:
    return [(index, 100 + index) for index in range(count)]


@pytest.mark.parametrize("a_sample", [0.5, 2.0])
def test_a_batch_that_takes_one_worker_long_is_read_by_all(a_sample: float) -> None:
    share, asked = sharing(a_sample * LONG_SECONDS / 8)
    batch = share.begin(drawn(8))
    assert batch.in_parts is (a_sample > 1)
    sizes = [len(request.indices) for request in asked.requests]
    assert sizes == ([2, 2, 2, 2] if batch.in_parts else [8])
    assert share.joined(batch, share.wait(batch)).tolist() == list(range(8))


@pytest.mark.parametrize("reader", [{"workers": 1}, {"workers": 0}, {"indexing": Indexing.MANY}])
def test_it_is_not_where_that_gains_nothing(reader: dict[str, Any]) -> None:
    share, asked = sharing(1.0, **reader)
    assert not share.begin(drawn(8)).in_parts
    assert len(asked.requests) == 1


@pytest.mark.parametrize("seconds", [0.1, 10.0])
def test_nor_where_joining_takes_this_process_long(seconds: float) -> None:
    """The workers read 8 samples in 2 s."""
    clock = FakeClock()

    def collate(samples: list[Any]) -> Any:
        clock.pass_by(seconds)
        return default_collate(samples)

    share, _ = sharing(1.0, clock, collate=collate)
    first = share.begin(drawn(8))
    share.joined(first, share.wait(first))
    assert share.begin(drawn(8)).in_parts is (seconds < 1)


def test_until_a_sample_was_timed_nothing_is_shared_out_unless_asked_for() -> None:
    share = Sharing(Recorded(4), clock=FakeClock())  # type: ignore[arg-type]
    assert not share.begin(drawn(64)).in_parts
    assert share.begin(drawn(64), in_parts=True).in_parts


def test_portions_are_none_empty_and_all_there() -> None:
    assert [list(part) for part in portions(range(5), 4)] == [[0, 1], [2, 3], [4]]
    assert [list(part) for part in portions(range(2), 4)] == [[0], [1]]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of eight that takes 0.16 s is a long one."""
    monkeypatch.setattr(module, "LONG_SECONDS", 0.1)


@pytest.mark.usefixtures("soon")
def test_every_worker_reads_at_every_batch_of_slow_samples() -> None:
    source = source_from(DataLoader(Slow(), batch_size=8, num_workers=2))
    source.take(8)
    source.rewind(3)
    source.expect([8] * 4)
    batches = [source.draw(8) for _ in range(4)]
    with reading(source.rebuild(8)) as rebuilt:
        batches += [next(rebuilt) for _ in range(2)]
    source.close()
    assert all({int(row[1]) for row in batch} == {0, 1} for batch in batches)


@pytest.mark.usefixtures("soon")
def test_shared_batches_are_those_that_one_process_reads() -> None:
    def found(workers: int, seconds: float) -> list[Any]:
        source = source_from(DataLoader(Slow(seconds), batch_size=8, num_workers=workers))
        source.take(8)
        source.rewind(3)
        batches = [source.draw(8) for _ in range(4)]
        with reading(source.rebuild(8)) as rebuilt:
            batches += [batch for batch, _ in zip(rebuilt, range(3), strict=False)]
        source.close()
        return [batch[:, 0].tolist() for batch in batches] + [
            batch[:, 2].tolist() for batch in batches[:4]
        ]

    assert found(2, 0.02) == found(2, 0.0)
    assert found(2, 0.02)[:4] == found(0, 0.0)[:4]
