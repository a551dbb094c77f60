"""What was seen of every size so far: visits in rounds, and how many are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from batchfinder.timing import SAME_TIME, without_drift

__all__ = ["Effort", "Record", "evened", "is_as_quick", "is_below_floor"]


@dataclass(frozen=True)
class Effort:
    """How much is spent on timing.

    A size that can win is visited until its median is known to ``tight`` (90%), by the scatter of
    all of them; one that cannot win ``fewest_visits`` times. Half of the time is for warming up.
    Visits are short: what slows a machine lasts longer than one. Energy is read apart, in longer
    visits, since its counter moves a few times a second.
    """

    budget_seconds: float = 6.0
    fewest_visits: int = 2
    least_visits: int = 4
    most_visits: int = 30
    visit_seconds: float = 0.02
    energy_visits: int = 3
    energy_visit_seconds: float = 0.2
    energy_budget_seconds: float = 2.0
    tight: float = 0.06
    loader_batches: int = 6
    loader_budget_seconds: float = 2.0


@dataclass
class Record:
    """The visits to one size so far: seconds per step, in its two parts, and in which round."""

    batch_size: int
    peak_bytes: int | None
    counted: int
    """Samples or tokens that a batch really holds: a token budget is rarely filled whole."""
    rounds: list[int] = field(default_factory=list)
    forward_backward: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    joules_per_sample: list[float] = field(default_factory=list)

    def throughputs(self) -> list[float]:
        pairs = zip(self.forward_backward, self.update, strict=True)
        return [self.counted / max(sum(pair), 1e-12) for pair in pairs]

    def visits(self) -> list[float]:
        """The seconds of a whole step, at every visit."""
        return list(map(sum, zip(self.forward_backward, self.update, strict=True)))

    def seconds(self) -> float:
        """The median seconds of a whole step."""
        return median(self.visits())


def evened(records: Sequence[Record]) -> list[Record]:
    """The records without what slowed all sizes of one round alike."""
    even = without_drift(
        {each.batch_size: list(zip(each.rounds, each.visits(), strict=True)) for each in records}
    )
    found = []
    for each in records:
        shares = [
            a / max(b, 1e-12) for a, b in zip(even[each.batch_size], each.visits(), strict=True)
        ]
        found.append(
            replace(
                each,
                forward_backward=[
                    s * f for s, f in zip(each.forward_backward, shares, strict=True)
                ],
                update=[s * f for s, f in zip(each.update, shares, strict=True)],
            )
        )
    return found


def is_as_quick(record: Record, floor: Record) -> bool:
    """Whether a step takes as long as at the smallest size: the fastest seen of both.

    Steps that are bound by launches scatter upwards, by more than the sizes differ.
    """
    return min(record.visits()) <= (1 + SAME_TIME) * min(floor.visits())


def is_below_floor(size: int, floor: Record, records: Sequence[Record]) -> bool:
    """Whether a batch at least twice as large takes no longer than any step does."""
    return any(each.batch_size >= 2 * size and is_as_quick(each, floor) for each in records)
