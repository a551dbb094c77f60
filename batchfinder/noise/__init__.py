"""What does a larger batch buy? The gradient noise scale, measured without leaving the loop."""

from batchfinder.noise.along_warmup import noise_along_warmup
from batchfinder.noise.context import Point, Pooling
from batchfinder.noise.estimators import MicroBatchVariance, warmup_estimator
from batchfinder.noise.gradient_hooks import EUCLIDEAN, Metric, Sketch, metric_for
from batchfinder.noise.per_example import PerExample
from batchfinder.noise.preflight import hazards_in_room
from batchfinder.noise.training_loop import train_steps
from batchfinder.results import NoiseFindings

__all__ = [
    "EUCLIDEAN",
    "Metric",
    "MicroBatchVariance",
    "NoiseFindings",
    "PerExample",
    "Point",
    "Pooling",
    "Sketch",
    "hazards_in_room",
    "metric_for",
    "noise_along_warmup",
    "train_steps",
    "warmup_estimator",
]
