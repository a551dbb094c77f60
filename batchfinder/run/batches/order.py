"""Which samples are drawn: every one once an epoch, in random order, whatever their number."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from batchfinder.errors import CannotBuildBatch

__all__ = ["EAGER", "Order", "Scattered", "Shuffled", "shuffled"]

EAGER = 1_000_000
"""Up to here an order is written down; above it is computed, entry by entry."""

_ROUNDS = 4
_AT_ONCE = 1024


class Scattered(Sequence[int]):
    """``0 … count-1`` in a random order that takes no memory: a Feistel network over the bits.

    Entries beyond ``count`` are sent through again until they fall inside (cycle walking), so
    that this is a permutation. Source: Black and Rogaway 2002, "Ciphers with arbitrary finite
    domains".
    """

    def __init__(self, count: int, seed: int) -> None:
        self._length = count
        self._half = max(1, -(-max(count - 1, 1).bit_length() // 2))
        picks = random.Random(seed)
        self._keys = [picks.getrandbits(64) | 1 for _ in range(_ROUNDS)]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self.at(range(*place.indices(self._length)))
        return self.at([range(self._length)[place]])[0]

    def at(self, places: Sequence[int]) -> list[int]:
        """The entries at ``places``."""
        found = self._sent(np.asarray(places, dtype=np.uint64))
        while (outside := found >= self._length).any():
            found[outside] = self._sent(found[outside])
        return [int(entry) for entry in found]

    def _sent(self, values: np.ndarray) -> np.ndarray:
        half, mask = np.uint64(self._half), np.uint64((1 << self._half) - 1)
        left, right = values >> half, values & mask
        for key in self._keys:
            mixed = (right + np.uint64(key >> 1)) * np.uint64(key)
            mixed ^= mixed >> np.uint64(29)
            left, right = (
                right,
                left ^ ((mixed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)) & mask,
            )
        return (left << half) | right


def shuffled(count: int, seed: int) -> Sequence[int]:
    """``0 … count-1`` in random order."""
    if count > EAGER:
        return Scattered(count, seed)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


class Shuffled(Sampler[int]):
    """``RandomSampler`` for any number of samples: its own writes down every index first."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        order = Scattered(self.count, int(torch.empty((), dtype=torch.int64).random_()))
        for first in range(0, self.count, _AT_ONCE):
            yield from order.at(range(first, min(first + _AT_ONCE, self.count)))


@dataclass(frozen=True)
class Mark:
    """A place in an order, to go back to."""

    epoch: int
    next: int
    drawn: int
    state: torch.Tensor | None


class Order:
    """Draws from ``count`` positions: distinct through an epoch, or by ``weights``."""

    def __init__(self, count: int, seed: int, weights: torch.Tensor | None = None) -> None:
        self.count, self._weights = count, weights
        self.rewind(seed)

    def rewind(self, seed: int) -> None:
        """Start anew, shuffled by ``seed``."""
        self.seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self._epochs: list[Sequence[int]] = []
        self._epoch, self._next, self.drawn = -1, self.count, 0

    def mark(self) -> Mark:
        state = None if self._weights is None else self._generator.get_state()
        return Mark(self._epoch, self._next, self.drawn, state)

    def back_to(self, mark: Mark) -> None:
        """What was drawn since is drawn again."""
        self._epoch, self._next, self.drawn = mark.epoch, mark.next, mark.drawn
        if mark.state is not None:
            self._generator.set_state(mark.state)

    def draw(self, count: int) -> list[int]:
        """The next ``count`` positions.

        Raises:
            CannotBuildBatch: where there are fewer.
        """
        if count > self.count:
            raise CannotBuildBatch(
                f"expected at most {self.count} samples, the size of the dataset; found a "
                f"request for {count}"
            )
        self.drawn += count
        if self._weights is not None:
            return torch.multinomial(self._weights, count, True, generator=self._generator).tolist()
        # The rest of an epoch is left out rather than joined to the next: a batch across both
        # could hold one sample twice.
        if self._next + count > self.count:
            self._epoch, self._next = self._epoch + 1, 0
        self._next += count
        return list(self._permutation(self._epoch)[self._next - count : self._next])

    def _permutation(self, epoch: int) -> Sequence[int]:
        while len(self._epochs) <= epoch:
            if len(self._epochs) > 1:
                self._epochs[-2] = ()  # two are enough: draws go back by less than an epoch
            self._epochs.append(self._shuffled(len(self._epochs)))
        return self._epochs[epoch]

    def _shuffled(self, epoch: int) -> Sequence[int]:
        if self.count > EAGER:
            return Scattered(self.count, hash((self.seed, epoch)))
        return torch.randperm(self.count, generator=self._generator).tolist()
