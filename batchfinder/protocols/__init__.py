"""Protocols: what a value must offer to stand in for one of ours.

All are structural. Users pass values; nothing registers itself, nothing is subclassed.

- ``step``: one training step of the user's; with its loader and the device, as one value;
- ``source``: the user's loader, as batches of any size;
- ``device``: a device's memory;
- ``ranks``: the processes that train together;
- ``strategies``: functions, such as objectives, learning-rate rules and observers; how the
  gradient noise scale is estimated.
"""

from __future__ import annotations

from batchfinder.protocols.device import DeviceProcess, MemoryBackend
from batchfinder.protocols.ranks import RankGroup, Ranks
from batchfinder.protocols.source import Batch, BatchSource, MicroBatches, Unit
from batchfinder.protocols.step import Setup, TrainStep, UpdateWatch, WholeStep
from batchfinder.protocols.strategies import (
    Advance,
    Clock,
    LearningRateRule,
    NoiseEstimator,
    Objective,
    Observer,
    WarmupEstimator,
)

__all__ = [
    "Advance",
    "Batch",
    "BatchSource",
    "Clock",
    "DeviceProcess",
    "LearningRateRule",
    "MemoryBackend",
    "MicroBatches",
    "NoiseEstimator",
    "Objective",
    "Observer",
    "RankGroup",
    "Ranks",
    "Setup",
    "TrainStep",
    "Unit",
    "UpdateWatch",
    "WarmupEstimator",
    "WholeStep",
]
