"""Several processes: what they tell each other, so that all of them go the same way.

- ``alone``: one process, which sends nothing;
- ``messages``: one kind of message, over the store of the default process group;
- ``met``: the ranks of one call, and what is decided from their messages;
- ``group``: how they meet;
- ``gate``: asks all ranks before every collective;
- ``wrappers``: DistributedDataParallel, ``fully_shard`` and others; a step that was cut is mended.
"""

from __future__ import annotations

from batchfinder.run.ranks.alone import ALONE, Alone
from batchfinder.run.ranks.group import TorchRanks, launched_without_group, ranks_here
from batchfinder.run.ranks.met import MetRanks
from batchfinder.run.ranks.wrappers import Wrapping, mend, wrapping_of

__all__ = [
    "ALONE",
    "Alone",
    "MetRanks",
    "TorchRanks",
    "Wrapping",
    "launched_without_group",
    "mend",
    "ranks_here",
    "wrapping_of",
]
