"""Which micro-batches fit? A search that is a function of its history.

``guided(trials, space)`` names the next size to run, or ``None`` when enough is known. It holds
nothing between calls: a saved list of trials resumes the search, and ranks that share their
trials share its answer. ``probe`` is the loop around it.

- ``space``: which sizes may be tried (ceiling, multiples, powers of two) and when to stop;
- ``history``: the trials so far, as a bracket between what fits and what does not; the memory line
  through their peaks, and the forecast that steers by it;
- ``guided``: the default search, and its schedule where memory cannot be forecast;
- ``loop``: runs a search, and says what its trials have shown;
- ``patience``: how long a size will take, and a search that stops where steps take too long.
"""

from __future__ import annotations

from batchfinder.probe.guided import guided
from batchfinder.probe.history import MemoryLine, latest, memory_line
from batchfinder.probe.loop import Propose, has_ended, held_bytes, probe
from batchfinder.probe.patience import not_tried_for_time, step_seconds_at, within_time
from batchfinder.probe.space import SearchSpace

__all__ = [
    "MemoryLine",
    "Propose",
    "SearchSpace",
    "guided",
    "has_ended",
    "held_bytes",
    "latest",
    "memory_line",
    "not_tried_for_time",
    "probe",
    "step_seconds_at",
    "within_time",
]
