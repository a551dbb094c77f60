"""The sizes that a search may try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchfinder.errors import InvalidArgument


@dataclass(frozen=True)
class SearchSpace:
    """The sizes that may be tried, and the resolution of the maximum.

    Attributes:
        start: the first size to run (rounded down to a size that may be tried).
        ceiling: never exceeded, in trials either; ``None`` for no ceiling.
        limit_bytes: what the trials' ``peak_bytes`` must stay within; ``None`` if unknown.
        resolution: stop when nothing that fits can be larger than the largest that ran by more
            than this share of it; 0 asks for the exact maximum.
        first_guess: the maximum as predicted, such as by ``predict.first_guess``.
        multiple_of: only multiples of this are tried.
        powers_of_two: only powers of two are tried.
        floor: no smaller size is tried: the caller's, or what the step needs (a batch norm cannot
            train on one sample).

    Raises:
        InvalidArgument: if a value is invalid.
    """

    start: int = 1
    ceiling: int | None = None
    limit_bytes: int | None = None
    resolution: float = 0.02
    first_guess: int | None = None
    multiple_of: int = 1
    powers_of_two: bool = False
    floor: int = 1

    def __post_init__(self) -> None:
        for name in ("start", "multiple_of", "ceiling", "limit_bytes", "floor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgument(
                    f"expected {name} of at least 1; found {value}: leave it out for no bound"
                )
        if not 0 <= self.resolution < 1:
            raise InvalidArgument(
                f"expected a resolution from 0 (exact) to below 1; found {self.resolution}"
            )
        if self.powers_of_two and self.multiple_of & (self.multiple_of - 1):
            raise InvalidArgument(
                f"no power of two is a multiple of {self.multiple_of}: "
                "drop powers_of_two or choose multiple_of among 1, 2, 4, 8, …"
            )
        if self.ceiling is not None and self.ceiling < self.smallest:
            raise InvalidArgument(
                f"the ceiling {self.ceiling} is below the smallest size that may be tried, "
                f"{self.smallest}: raise at_most, lower at_least or multiple_of, or use a "
                "larger dataset"
            )

    @property
    def smallest(self) -> int:
        """The smallest size that may be tried."""
        if self.powers_of_two:
            return max(1 << (self.floor - 1).bit_length(), self.multiple_of)
        return -(-self.floor // self.multiple_of) * self.multiple_of

    @property
    def first(self) -> int:
        """The size to begin with."""
        return self.at_most(self.start)

    def allows(self, size: int) -> bool:
        """Whether ``size`` may be tried."""
        return size >= self.smallest and self.at_most(size) == size

    def at_most(self, size: float) -> int:
        """The largest size that may be tried, at or below ``size``; the smallest if none is."""
        if self.ceiling is not None:
            size = min(size, self.ceiling)
        whole = max(int(size), self.smallest)
        if self.powers_of_two:
            return 1 << (whole.bit_length() - 1)
        return whole - whole % self.multiple_of

    def after(self, size: int) -> int | None:
        """The next larger size that may be tried; ``None`` at the ceiling."""
        if self.powers_of_two:
            larger = max(1 << size.bit_length(), self.smallest)
        else:
            larger = (size // self.multiple_of + 1) * self.multiple_of
        return None if self.ceiling is not None and larger > self.ceiling else larger

    def before(self, size: int) -> int:
        """The next smaller size that may be tried; 0 below the smallest."""
        return self.at_most(size - 1) if size > self.smallest else 0

    def within_resolution(self, low: int) -> float:
        """The largest size that is as good as ``low``."""
        return low * (1 + self.resolution)

    def between(self, low: int, high: int) -> Sequence[int]:
        """The sizes worth telling apart strictly between ``low`` and ``high``, increasing.

        Sizes closer than ``resolution`` are as good as one, so that only one of them is listed.
        """
        if not self.powers_of_two and self.resolution * high < self.multiple_of:
            first = (low // self.multiple_of + 1) * self.multiple_of
            return range(first, high, self.multiple_of)
        sizes = []
        size = self._worth_trying_after(low)
        while size is not None and size < high:
            sizes.append(size)
            size = self._worth_trying_after(size)
        return sizes

    def _worth_trying_after(self, size: int) -> int | None:
        larger = self.after(size)
        if larger is None:
            return None
        return max(larger, self.at_most(self.within_resolution(size)))
