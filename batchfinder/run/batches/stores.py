"""Where single samples come from: a dataset by index, a stream, or batches cut into rows.

A store offers *positions*, ``0 … available-1``, in a fixed order, and apart from them draws of
samples in random order for one epoch after another.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch

from batchfinder.errors import CannotBuildBatch
from batchfinder.run.batches.randomness import kept, reseed
from batchfinder.run.batches.structure import MAKE_LOADER, bytes_in, split

__all__ = ["CACHE_BYTES", "Indexed", "Store", "Streamed", "rows_of"]

CACHE_BYTES = 256 * 1024**2
"""How much sample data is kept for fixed batches before samples are repeated."""

_EAGER = 1_000_000  # up to here an order is written down; above, positions are drawn
_WINDOW = 1024  # samples of a stream among which draws are shuffled


class Store(Protocol):
    """Samples of the user's, one at a time."""

    @property
    def length(self) -> int | None:
        """Samples in all; ``None`` for a stream."""
        ...

    def available(self, wanted: int) -> int:
        """How many positions there are, at most ``wanted``."""
        ...

    def fetch(self, position: int) -> Any:
        """The sample at a position of the fixed order; called inside ``randomness.kept``."""
        ...

    def draw(self, count: int) -> list[Any]:
        """The next ``count`` samples in random order; a new epoch where too few are left."""
        ...

    def rewind(self, seed: int) -> None:
        """Start drawing anew."""
        ...


class Indexed:
    """A map-style dataset, over the indices that the user's sampler can yield."""

    def __init__(
        self,
        dataset: Any,
        indices: Sequence[int],
        seed: int = 0,
        weights: torch.Tensor | None = None,
    ) -> None:
        self._dataset = dataset
        self._indices = indices
        self._weights = weights
        self._seed = seed
        self._order = _shuffled(len(indices), seed)
        self._epoch = torch.empty(0, dtype=torch.long)
        self.rewind(seed)

    @property
    def length(self) -> int:
        return len(self._indices)

    def available(self, wanted: int) -> int:
        return min(wanted, len(self._order))

    def fetch(self, position: int) -> Any:
        return self._read(self._order[position], self._seed + position)

    def rewind(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._drawn = self._next = 0
        self._epoch = torch.empty(0, dtype=torch.long)

    def draw(self, count: int) -> list[Any]:
        chosen = self.draw_positions(count)
        first, self._drawn = self._drawn, self._drawn + count
        salt = self._generator.initial_seed() + 1
        with kept():
            return [self._read(p, hash((salt, first + i))) for i, p in enumerate(chosen)]

    def draw_positions(self, count: int) -> list[int]:
        """Which samples ``draw`` would read next."""
        if count > self.length:
            raise CannotBuildBatch(
                f"expected at most {self.length} distinct samples, which is all there are; "
                f"{count} were asked for"
            )
        if self._weights is not None:
            drawn = torch.multinomial(self._weights, count, True, generator=self._generator)
        else:
            drawn = self._distinct(count)
        return [int(position) for position in drawn]

    def _distinct(self, count: int) -> torch.Tensor:
        # The rest of an epoch is left out rather than joined to the next: a batch across both
        # could hold one sample twice.
        if self._next + count > len(self._epoch):
            self._epoch = torch.randperm(self.length, generator=self._generator)
            self._next = 0
        self._next += count
        return self._epoch[self._next - count : self._next]

    def indices_at(self, positions: Sequence[int]) -> list[int]:
        """The dataset's indices behind positions of the fixed order."""
        return [self._indices[self._order[position]] for position in positions]

    def indices_drawn(self, count: int) -> list[int]:
        """The dataset's indices behind the next draw."""
        return [self._indices[position] for position in self.draw_positions(count)]

    def _read(self, position: int, seed: int) -> Any:
        index = self._indices[position]
        try:
            reseed(seed)
            return _item(self._dataset, index)
        except Exception as error:
            error.add_note(
                f"while sample {index} of {type(self._dataset).__name__} was read for a batch; "
                f"to build batches in another way, {MAKE_LOADER}"
            )
            raise


def _item(dataset: Any, index: int) -> Any:
    many = getattr(dataset, "__getitems__", None)
    return many([index])[0] if callable(many) else dataset[index]


def _shuffled(count: int, seed: int) -> Sequence[int]:
    generator = torch.Generator().manual_seed(seed)
    if count <= _EAGER:
        return torch.randperm(count, generator=generator).tolist()
    picks = random.Random(seed)
    return picks.sample(range(count), _EAGER)


class Streamed:
    """Samples that can only be read in sequence, from the start as often as needed."""

    def __init__(
        self, start: Callable[[], Iterable[Any]], seed: int = 0, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._start = start
        self._seed = seed
        self._cache_bytes = cache_bytes
        self._kept: list[Any] = []
        self._kept_bytes = 0
        self._reader: Iterator[Any] | None = None
        self._length: int | None = None
        self.rewind(seed)

    @property
    def length(self) -> int | None:
        """Known once the stream has been read to its end."""
        return self._length

    @property
    def is_full(self) -> bool:
        """Whether no further sample is kept."""
        return self._length is not None or self._kept_bytes >= self._cache_bytes

    def available(self, wanted: int) -> int:
        if len(self._kept) < wanted and not self.is_full:
            with kept():
                while len(self._kept) < wanted and not self.is_full:
                    self._keep_one()
        return min(wanted, len(self._kept))

    def read_ahead(self, wanted: int, in_time: Callable[[], bool]) -> None:
        """Keep ``wanted`` samples while there is time: a short stream's end is met, and known."""
        while in_time() and self.available(len(self._kept) + 1) < wanted and not self.is_full:
            pass

    def fetch(self, position: int) -> Any:
        return self._kept[position]

    def _keep_one(self) -> None:
        if self._reader is None:
            self._reader = self._read(self._seed)
        try:
            sample = next(self._reader)
        except StopIteration:
            self._length = len(self._kept)
            self._reader = None
            return
        self._kept.append(sample)
        self._kept_bytes += bytes_in(sample)
        if self.is_full:
            self._reader = None

    def _read(self, seed: int) -> Iterator[Any]:
        """The stream from its start; advanced inside ``randomness.kept`` only."""
        reseed(seed)
        samples = iter(self._start())
        for count in itertools.count():
            reseed(hash((seed, count)))
            try:
                sample = next(samples)
            except StopIteration:
                return
            except Exception as error:
                error.add_note(
                    f"while sample {count} of the stream was read for a batch; to build "
                    f"batches in another way, {MAKE_LOADER}"
                )
                raise
            yield sample

    def rewind(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._epoch_seed = seed
        self._draws: Iterator[Any] = iter(())

    def draw(self, count: int) -> list[Any]:
        with kept():
            drawn = list(itertools.islice(self._draws, count))
            if len(drawn) < count:
                self._epoch_seed += 1
                self._draws = self._mixed(self._read(self._epoch_seed))
                drawn = list(itertools.islice(self._draws, count))
        if len(drawn) < count:
            raise CannotBuildBatch(
                f"expected a stream of at least {count} samples; it ended after {len(drawn)}"
            )
        return drawn

    def _mixed(self, samples: Iterator[Any]) -> Iterator[Any]:
        """Each sample once, in an order shuffled within a window."""
        window: list[Any] = []
        for sample in samples:
            if len(window) < _WINDOW:
                window.append(sample)
                continue
            place = self._random.randrange(_WINDOW)
            leaving, window[place] = window[place], sample
            yield leaving
        self._random.shuffle(window)
        yield from window


def rows_of(batches: Iterable[Any], axis: int = 0) -> Callable[[], Iterator[Any]]:
    """What starts a stream of single rows over an iterable of batches."""

    def start() -> Iterator[Any]:
        for batch in batches:
            yield from split(batch, axis)

    return start
