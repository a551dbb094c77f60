"""Which batch size should I train with, and at which learning rate?

    from batchfinder import find_batch_size

    report = find_batch_size(model, loader)      # probes, measures, recommends, confirms
    print(report)                                # the table, the choice, the reason
    loader = report.make_loader(loader)          # your own loader at the recommended size

The answer comes with evidence: the size was run, the throughput and the gradient noise scale
carry intervals, and model, optimizer, random numbers and loader are afterwards bit for bit what
they were. ``max_batch_size`` and ``gradient_noise_scale`` give two of its answers alone;
``memory_limit`` simulates a small device, in your own tests too.

Every strategy is a value that you can pass: see ``batchfinder.recommend`` (objectives),
``batchfinder.scaling`` (learning-rate rules) and ``batchfinder.noise`` (estimators).
"""

from batchfinder.alone import gradient_noise_scale, max_batch_size
from batchfinder.errors import (
    AssumptionWarning,
    BatchFinderError,
    BatchFinderWarning,
    CannotBuildBatch,
    DeviceLost,
    DeviceMismatch,
    ExtrapolationWarning,
    InvalidArgument,
    LossIsNotFinite,
    MissingDependency,
    NoiseNotMeasured,
    NoisyMeasurementWarning,
    NothingFits,
    NothingToTrain,
    NotPicklable,
    StateNotRestoredWarning,
    UnknownLoss,
)
from batchfinder.find import find_batch_size
from batchfinder.report import Report
from batchfinder.results import (
    BatchPlan,
    Candidate,
    Limit,
    Measurement,
    MemoryBreakdown,
    NoiseScale,
    Outcome,
    ProbeResult,
    Trial,
)
from batchfinder.run.memory import memory_limit
from batchfinder.run.state import preserved

__version__ = "0.1.0"

__all__ = [
    "AssumptionWarning",
    "BatchFinderError",
    "BatchFinderWarning",
    "BatchPlan",
    "Candidate",
    "CannotBuildBatch",
    "DeviceLost",
    "DeviceMismatch",
    "ExtrapolationWarning",
    "InvalidArgument",
    "Limit",
    "LossIsNotFinite",
    "Measurement",
    "MemoryBreakdown",
    "MissingDependency",
    "NoiseNotMeasured",
    "NoiseScale",
    "NoisyMeasurementWarning",
    "NotPicklable",
    "NothingFits",
    "NothingToTrain",
    "Outcome",
    "ProbeResult",
    "Report",
    "StateNotRestoredWarning",
    "Trial",
    "UnknownLoss",
    "find_batch_size",
    "gradient_noise_scale",
    "max_batch_size",
    "memory_limit",
    "preserved",
]
