"""What does a larger batch buy? The gradient noise scale, measured without leaving the loop."""

from batchfinder.noise.micro_batch import MicroBatchVariance
from batchfinder.noise.per_example import PerExample
from batchfinder.noise.ranks import TorchRanks
from batchfinder.noise.warmup import noise_along_warmup
from batchfinder.results import NoiseFindings

__all__ = ["MicroBatchVariance", "NoiseFindings", "PerExample", "TorchRanks", "noise_along_warmup"]
