"""The same eyes during the real training: a monitor, and batch sizes that change.

``training_monitor`` looks at some steps of a training (``look``, ``gradients``, ``movement``) and
at every loss (``losses``); ``alarms`` names what is unstable, ``pricing`` what would be faster.
``record`` holds what was seen, as frozen data.
"""

from batchfinder.monitor.record import History, Instability, Kind, Reading, Suggestion
from batchfinder.monitor.training_monitor import TrainingMonitor

__all__ = ["History", "Instability", "Kind", "Reading", "Suggestion", "TrainingMonitor"]
