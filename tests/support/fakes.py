"""Stand-ins for the protocols: a clock that is told the time, a step that only takes some of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from batchfinder.rates import OptimizerFamily, UpdateEffect
from batchfinder.run.memory.defaults import Defaults
from batchfinder.run.ranks import ALONE


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@contextmanager
def watched_by_hand(effect: Callable[[], UpdateEffect]) -> Iterator[SimpleNamespace]:
    """In place of a step's ``watched``: what updates are said to have done."""
    yield SimpleNamespace(effect=effect)


def as_asked_for() -> UpdateEffect:
    """Updates that moved parameters, at the rate that was set."""
    return UpdateEffect(
        updates=40, clipped=0, parameters_moved=True, state_moved=None, rate_kept=True, made=40
    )


class FakeMemory(Defaults):
    """A device whose peak is a function of the batch, and which refuses above its limit."""

    name = "fake"
    is_simulated = True

    def __init__(self, limit: int = 10**9) -> None:
        self.limit = limit
        self.peak = 0
        self.synchronized = 0

    def limit_bytes(self) -> int:
        return self.limit

    def held_bytes(self) -> int:
        return 0

    def peak_bytes(self) -> int:
        return self.peak

    def reserved_peak_bytes(self) -> None: ...

    def reset_peak(self) -> None:
        self.peak = 0

    def release(self) -> None: ...

    def synchronize(self) -> None:
        self.synchronized += 1

    def pressure(self) -> int:
        return 0

    def other_processes_bytes(self) -> int:
        return 0

    def ask(self, count: int) -> None:
        self.peak = max(self.peak, count)
        if count > self.limit:
            raise torch.OutOfMemoryError(f"fake: {count} of {self.limit}")

    @contextmanager
    def watch(self, held: Iterable[torch.Tensor] = ()) -> Iterator[None]:
        yield


class FakeSource:
    """Batches are their own size."""

    unit = "samples"
    smallest, varies, worker_copies, notes = 1, False, 0, ()

    def __init__(
        self,
        clock: FakeClock | None = None,
        length: int | None = None,
        seconds_per_sample: float = 0.0,
    ) -> None:
        self.length = self.ceiling = length
        self.base_batch_size = 8
        self._clock = clock
        self._seconds = seconds_per_sample

    def take(self, size: int) -> int:
        return size

    ordinary = draw = take

    def expect(self, sizes: list[int]) -> None: ...

    def rewind(self, seed: int) -> None: ...

    def as_ordinary(self) -> FakeSource:
        return self

    def expected_seconds(self, size: int) -> float:
        return 0.0

    def close(self) -> None: ...

    def count(self, batch: int) -> int:
        return batch

    def rebuild(self, size: int) -> Iterator[int]:
        for _ in range((self.length or 10**6) // size):
            if self._clock is not None:
                self._clock.pass_by(self._seconds * size)
            yield size


class FakeStep:
    """Takes ``seconds(size)`` for forward and backward, ``update_seconds`` for the update."""

    device = torch.device("cpu")
    ranks = ALONE
    updates_itself = False
    optimizer_family = OptimizerFamily.UNKNOWN
    weight = 1.0

    def __init__(
        self,
        clock: FakeClock,
        seconds: Callable[[int], float],
        *,
        update_seconds: float = 0.0,
        memory: FakeMemory | None = None,
        bytes_needed: Callable[[int], int] = lambda size: size,
        jitter: float = 0.0,
    ) -> None:
        self._clock, self._seconds, self._update = clock, seconds, update_seconds
        self._memory, self._bytes = memory, bytes_needed
        self._jitter, self._random = jitter, random.Random(0)
        self.rate = 1.0
        self.sizes: list[int] = []

    def parameters(self) -> list[torch.nn.Parameter]:
        return []

    def holdings(self) -> list[torch.Tensor]:
        return []

    def forward_backward(self, batch: int, scale: float = 1.0) -> torch.Tensor:
        self.sizes.append(batch)
        if self._memory is not None:
            self._memory.ask(self._bytes(batch))
        noise = 1 + self._jitter * self._random.uniform(-1, 1)
        self._clock.pass_by(self._seconds(batch) * noise)
        return torch.tensor(1.0)

    def loss_scale(self) -> float:
        return 1.0

    def update(self) -> None:
        self._clock.pass_by(self._update)

    def learning_rate(self) -> float | None:
        return self.rate

    def scale_learning_rate(self, factor: float) -> None:
        self.rate *= factor

    def set_learning_rate(self, rate: float) -> None:
        self.rate = rate

    def zero_grad(self) -> None: ...
