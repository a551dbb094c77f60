"""Several processes: what they tell each other, so that all of them go the same way.

- ``alone``: one process, which sends nothing;
- ``messages``: one kind of message, over the store of the default process group;
- ``met``: the ranks of one call, and what is decided from their messages;
- ``group``, ``calls``: how they meet, and what the model is wrapped in (DistributedDataParallel,
  ``fully_shard`` and others); a step that was cut is mended;
- ``agreed_step``, ``agreed``: this rank's step, memory and loader, as all have them;
- ``parts``: samples of a rank's own;
- ``gate``: asks all ranks before every collective.
"""

from __future__ import annotations

from batchfinder.run.ranks.agreed import joined, joined_for_evaluation
from batchfinder.run.ranks.alone import ALONE, Alone
from batchfinder.run.ranks.calls import (
    Wrapping,
    described_model,
    meet,
    mend,
    refuse_alone,
    wrapping_of,
)
from batchfinder.run.ranks.group import TorchRanks, launched_without_group, ranks_here
from batchfinder.run.ranks.met import MetRanks
from batchfinder.run.ranks.parts import WHOLE, OwnPart

__all__ = [
    "ALONE",
    "WHOLE",
    "Alone",
    "MetRanks",
    "OwnPart",
    "TorchRanks",
    "Wrapping",
    "described_model",
    "joined",
    "joined_for_evaluation",
    "launched_without_group",
    "meet",
    "mend",
    "ranks_here",
    "refuse_alone",
    "wrapping_of",
]
