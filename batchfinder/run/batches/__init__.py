"""A loader turned into batches of any size.

``describe`` asks a loader once what it is made of; everything else is a function of that.
``source_from`` picks a *store* of single samples by it (``stores``: a dataset by index, a stream,
rows cut from batches), which a ``SampleSource`` collates with the
loader's own function into batches of any size; the longest samples first where lengths vary
(``lengths``). ``make_loader`` is the way out for everything else (``factory``).
``rebuild_loader`` gives the user's loader itself at another size. The loader that was passed is
never iterated and never changed.
"""

from __future__ import annotations

from batchfinder.run.batches.choose import Source, source_from
from batchfinder.run.batches.endless import Kept, endless
from batchfinder.run.batches.rebuild import loader_arguments, rebuild_loader
from batchfinder.run.batches.workers import (
    loading_seconds,
    reading,
    scaled,
    time_loader,
    workers_of,
)
from batchfinder.run.tree import leaves, map_leaves, rows_in, size_along

__all__ = [
    "Kept",
    "Source",
    "endless",
    "leaves",
    "loader_arguments",
    "loading_seconds",
    "map_leaves",
    "reading",
    "rebuild_loader",
    "rows_in",
    "scaled",
    "size_along",
    "source_from",
    "time_loader",
    "workers_of",
]
