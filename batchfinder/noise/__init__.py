"""What does a larger batch buy? The gradient noise scale, measured without leaving the loop."""

from batchfinder.noise.approach import approach
from batchfinder.noise.look import Point, Pooling
from batchfinder.noise.metric import EUCLIDEAN, Metric, metric_for
from batchfinder.noise.micro_batch import MicroBatchVariance
from batchfinder.noise.per_example import PerExample
from batchfinder.noise.ranks import ALONE, Exchange, TorchRanks
from batchfinder.noise.room import NO_ROOM, NoRoom, attempt
from batchfinder.noise.sketch import Sketch
from batchfinder.noise.warmup import noise_along_warmup
from batchfinder.results import NoiseFindings

__all__ = [
    "ALONE",
    "EUCLIDEAN",
    "NO_ROOM",
    "Exchange",
    "Metric",
    "MicroBatchVariance",
    "NoRoom",
    "NoiseFindings",
    "PerExample",
    "Point",
    "Pooling",
    "Sketch",
    "TorchRanks",
    "approach",
    "attempt",
    "metric_for",
    "noise_along_warmup",
]
