"""What does a larger batch buy? The gradient noise scale, measured without leaving the loop."""

from batchfinder.noise.micro_batch import MicroBatchVariance

__all__ = ["MicroBatchVariance"]
