"""During the real training: a monitor, and batch sizes that change.

``training_monitor`` looks at some steps of a training (``gradients``, ``updates``) when
``pace`` says, and at every loss (``losses``, ``device_losses``); ``alarms`` names what is
unstable, ``pricing`` what would be faster. ``history`` holds what was seen, as frozen data.
``batch_size_scheduler`` changes the batch size by one of the ``schedules``, through the user's
loader (``growing``) and with its learning rate (``rate``).
"""

from batchfinder.monitor.batch_size_scheduler import BatchSizeScheduler
from batchfinder.monitor.history import History, Instability, Kind, Reading, Suggestion
from batchfinder.monitor.ranks import AllGather
from batchfinder.monitor.schedules import (
    Doubling,
    FollowMonitor,
    GrowInsteadOfDecay,
    Linear,
    Milestones,
    Progress,
    Schedule,
    Target,
)
from batchfinder.monitor.training_monitor import TrainingMonitor

__all__ = [
    "AllGather",
    "BatchSizeScheduler",
    "Doubling",
    "FollowMonitor",
    "GrowInsteadOfDecay",
    "History",
    "Instability",
    "Kind",
    "Linear",
    "Milestones",
    "Progress",
    "Reading",
    "Schedule",
    "Suggestion",
    "Target",
    "TrainingMonitor",
]
