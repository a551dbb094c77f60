"""Which samples are the longest, along every side, and whether that matters for a batch.

The batch that decides memory is the one of the largest samples, not the average one; and where
samples are padded to the largest along each side, it holds the largest of each.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from batchfinder.protocols import Clock
from batchfinder.run.tree import bytes_in, leaves
from batchfinder.wording import Caveat

__all__ = ["Extent", "Lengths", "extent_of"]

_MOST = 4096  # samples scanned at most
FEWEST = 32  # samples scanned at least, where there are as many
_PATIENCE = 0.5  # seconds spent while every sample had the same length
_BUDGET = 5.0  # seconds spent where lengths vary
_MOST_EXTREMES = 8  # samples among which the largest batch of a few is looked for


@dataclass(frozen=True)
class Extent:
    """How long a sample is: entries of its tensors and columns, or else letters of its texts."""

    length: int
    sides: Mapping[Any, int]
    """The size along every axis of every part, by (path, axis)."""


@dataclass(frozen=True)
class Lengths:
    """The outcome of a scan: positions from the longest sample to the shortest, where it matters.

    ``longest_first`` is empty where every batch of one size is as large as every other.
    """

    longest_first: tuple[int, ...] = ()
    extremes: tuple[tuple[int, Extent], ...] = ()
    """The longest along each side that varies, if any, and the longest of all."""
    scanned: int = 0
    of: int | None = None
    longest: int = 0
    median: int = 0
    cut_short: bool = False
    """Whether the caller's time was up before enough were read."""

    @property
    def vary(self) -> bool:
        return bool(self.longest_first)

    @property
    def share(self) -> float | None:
        """The share of the samples that was scanned; ``None`` for a stream."""
        return self.scanned / self.of if self.of else None

    def hardest(self, size: int) -> tuple[int, ...]:
        """Positions of ``size`` samples, or all there are, that make the largest batch.

        Where parts are padded to the largest along each side, two samples that are the largest
        along different sides make a larger batch than two of the largest area.
        """
        if size == 1 or len(self.extremes) < 2:
            return self.longest_first[:size]
        few = min(size, len(self.extremes))
        chosen = max(
            itertools.combinations(self.extremes, few),
            key=lambda each: (_padded([extent for _, extent in each]), _total(each)),
        )
        first = [position for position, _ in chosen]
        rest = (position for position in self.longest_first if position not in first)
        return (*first, *itertools.islice(rest, size - few))

    @property
    def notes(self) -> tuple[Caveat, ...]:
        """What a reader should know: on what share of the samples the longest batch rests."""
        if self.cut_short:
            return (Caveat("batches.lengths_cut", scanned=self.scanned),)
        if not self.vary or self.share == 1.0:
            return ()
        return (Caveat("batches.lengths", scanned=self.scanned, share=self.share),)

    @classmethod
    def scan(
        cls,
        count: int | None,
        extents: Callable[[int, int], Sequence[Extent]],
        build: Callable[[Sequence[int]], Any],
        *,
        clock: Clock = time.perf_counter,
        until: float = math.inf,
        block: int = 1,
    ) -> Lengths:
        """Read samples until enough are known; see the constants above for how many.

        Args:
            count: samples in all; ``None`` for a stream.
            extents: (first position, count) -> of these samples, or of fewer at the end.
            build: positions -> their batch.
            clock: seconds.
            until: no more are read once the clock has passed this, but for the first.
            block: samples read at once.
        """
        found, cut_short = _scanned(count, extents, clock, until, block)
        known = cls(scanned=len(found), of=count, cut_short=cut_short)
        sound = [position for position, extent in enumerate(found) if extent.length]
        lengths = {position: found[position].length for position in sound}
        sides = _varying([found[position] for position in sound])
        if len(set(lengths.values())) < 2 and not sides:
            return known
        order = sorted(sound, key=lambda position: -lengths[position])
        ranked = sorted(lengths.values())
        vary = replace(
            known,
            longest_first=tuple(order),
            extremes=_extremes(found, order, sides),
            longest=ranked[-1],
            median=ranked[len(ranked) // 2],
        )
        few = min(2, len(order))
        alike = bytes_in(build(vary.hardest(few))) == bytes_in(build(order[-1:] * few))
        return known if alike else vary


def _scanned(
    count: int | None,
    extents: Callable[[int, int], Sequence[Extent]],
    clock: Clock,
    until: float,
    block: int,
) -> tuple[list[Extent], bool]:
    """In order, since a stream reads as far as it is asked for; and whether cut short.

    It is not where as many as always were read and all were alike.
    """
    found: list[Extent] = []
    started, vary = clock(), False
    while len(found) < _MOST:
        more = extents(len(found), min(block, _MOST - len(found)))
        if not more:
            break
        found.extend(more)
        vary = vary or any(each != found[0] for each in more if each.length)
        now, few = clock(), len(found) < FEWEST
        if not few and now - started > (_BUDGET if vary else _PATIENCE):
            break
        if now >= until:
            return found, (few or vary) and len(found) != count
    return found, False


def _varying(found: Sequence[Extent]) -> list[Any]:
    """The sides along which samples differ."""
    seen: dict[Any, set[int]] = defaultdict(set)
    for extent in found:
        for side, size in extent.sides.items():
            seen[side].add(size)
    return [side for side, sizes in seen.items() if len(sizes) > 1]


def _extremes(
    found: Sequence[Extent], order: Sequence[int], sides: Sequence[Any]
) -> tuple[tuple[int, Extent], ...]:
    """The longest of all and, along every side that varies, the longest of the largest there."""
    picked = {order[0]: None}
    for side in sides[: _MOST_EXTREMES - 1]:
        picked[max(order, key=lambda position: found[position].sides.get(side, 0))] = None
    return tuple((position, found[position]) for position in picked)


def _padded(extents: Sequence[Extent]) -> int:
    """Entries of one sample where every part is padded to the largest along each axis."""
    largest: dict[Any, dict[Any, int]] = defaultdict(dict)
    for extent in extents:
        for (path, axis), size in extent.sides.items():
            largest[path][axis] = max(size, largest[path].get(axis, 0))
    return sum(math.prod(sizes.values()) for sizes in largest.values())


def _total(chosen: Sequence[tuple[int, Extent]]) -> int:
    return sum(extent.length for _, extent in chosen)


def extent_of(sample: Any) -> Extent:
    """How long a sample is, and along which axis; texts count where nothing else does."""
    entries = letters = 0
    sides: dict[Any, int] = {}
    texts: dict[Any, int] = {}
    for path, leaf in leaves(sample):
        if isinstance(leaf, (str, bytes)):
            letters += len(leaf)
            texts[path, 0] = len(leaf)
            continue
        shape = _shape(leaf)
        entries += math.prod(shape) if shape else 0
        sides.update({(path, axis): size for axis, size in enumerate(shape)})
    return Extent(entries, sides) if entries else Extent(letters, texts)


def _shape(leaf: Any) -> tuple[int, ...]:
    """Of a tensor, an array, a column or a picture."""
    if isinstance(leaf, torch.Tensor) and leaf.is_nested:
        return (leaf.numel(),)  # its other sizes are no numbers
    if hasattr(leaf, "shape"):
        return tuple(int(size) for size in leaf.shape)
    if isinstance(leaf, (list, tuple)):
        return (len(leaf),)
    size = getattr(leaf, "size", None)  # of a PIL image: (width, height)
    if isinstance(size, tuple) and all(isinstance(side, int) for side in size):
        return size
    return ()
