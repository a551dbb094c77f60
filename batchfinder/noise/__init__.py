"""What does a larger batch buy? The gradient noise scale, measured without leaving the loop."""

from batchfinder.noise.approach import approach
from batchfinder.noise.micro_batch import MicroBatchVariance
from batchfinder.noise.per_example import PerExample
from batchfinder.noise.ranks import TorchRanks
from batchfinder.noise.room import NO_ROOM, NoRoom, attempt
from batchfinder.noise.warmup import noise_along_warmup
from batchfinder.results import NoiseFindings

__all__ = [
    "NO_ROOM",
    "MicroBatchVariance",
    "NoRoom",
    "NoiseFindings",
    "PerExample",
    "TorchRanks",
    "approach",
    "attempt",
    "noise_along_warmup",
]
