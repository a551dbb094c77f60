"""The stages as find.py calls them: each takes the call under way and gives back frozen data."""

from batchfinder.stages.arguments import check
from batchfinder.stages.around import loader_overlaps, world_size
from batchfinder.stages.base import Base, base_of
from batchfinder.stages.call import Budget, Call, opened
from batchfinder.stages.caveats import caveats_of
from batchfinder.stages.confirming import confirm_choice, with_headroom
from batchfinder.stages.measuring import measure_sizes
from batchfinder.stages.noising import estimate_here, estimate_noise, with_noise
from batchfinder.stages.probing import Search, probe_sizes
from batchfinder.stages.proving import not_restored

__all__ = [
    "Base",
    "Budget",
    "Call",
    "Search",
    "base_of",
    "caveats_of",
    "check",
    "confirm_choice",
    "estimate_here",
    "estimate_noise",
    "loader_overlaps",
    "measure_sizes",
    "not_restored",
    "opened",
    "probe_sizes",
    "with_headroom",
    "with_noise",
    "world_size",
]
