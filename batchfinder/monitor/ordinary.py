"""What an ordinary step touches: a few numbers side by side, since it finds cold caches."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

__all__ = ["Ordinary"]


@dataclass(slots=True)
class Ordinary:
    """What is known without a look, and what is kept until the next one.

    Steps before ``until`` only keep a loss of at most ``up_to``, as (step, loss, part) in
    ``losses``; ``part`` says that it is that of a piece of the batch. ``samples`` and ``passes``
    count those of the optimizer step under way, ``passes_before`` those of the one before;
    ``rows_are_samples`` once a batch had as many rows as samples, so that rows count them.
    """

    until: int = 0
    up_to: float = -math.inf
    losses: list[tuple[int, float, bool]] = field(default_factory=list)
    looking: bool = False
    samples: int = 0
    passes: int = 0
    passes_before: int = 1
    rows_are_samples: bool = False

    def step_ended(self, batch_size: int) -> int:
        """Samples of the optimizer step that ended: those counted, else ``batch_size``."""
        samples = self.samples or batch_size
        self.passes_before, self.samples, self.passes = self.passes, 0, 0
        return samples
