"""Which batch size should I train with, and at which learning rate?

    from batchfinder import find_batch_size

    report = find_batch_size(model, loader)      # probes, measures, recommends, confirms
    print(report)                                # the table, the choice, the reason
    loader = report.make_loader(loader)          # your own loader at the recommended size

The answer comes with evidence: the size was run, the throughput and the gradient noise scale
carry intervals, and model, optimizer, random numbers and loader are afterwards bit for bit what
they were.

``max_batch_size`` and ``gradient_noise_scale`` give two of its answers alone, ``eval_batch_size``
the one for evaluation. ``estimate_memory`` and ``predict_max_batch_size`` answer for a device
that is not there. ``compare_batch_sizes`` trains at several sizes, to check the recommendation.
``memory_limit`` and ``assert_fits`` simulate a small device, in your own tests too.

Every strategy is a value that you can pass: see ``batchfinder.recommend`` (objectives),
``batchfinder.scaling`` (learning-rate rules), ``batchfinder.race`` (a rate that is measured) and
``batchfinder.noise`` (estimators).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchfinder.compare import compare_batch_sizes
    from batchfinder.errors import (
        AssumptionWarning,
        BatchFinderError,
        BatchFinderWarning,
        CannotBuildBatch,
        CannotPredict,
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
        OutOfTime,
        StateNotRestoredWarning,
        UnknownLoss,
    )
    from batchfinder.evaluation import Evaluation, eval_batch_size
    from batchfinder.find import find_batch_size
    from batchfinder.max_batch import max_batch_size
    from batchfinder.monitor import BatchSizeScheduler, TrainingMonitor
    from batchfinder.noise import MicroBatchVariance, PerExample
    from batchfinder.noise_scale import gradient_noise_scale
    from batchfinder.predict import estimate_memory, predict_max_batch_size
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
    from batchfinder.testing import assert_fits
    from batchfinder.training import Search, Training

__version__ = "0.1.0"

# A name is fetched from its room when it is first asked for: importing the package costs
# next to nothing, and the pytest plugin does not load torch into sessions that never use it.
_ROOMS = {
    "compare": ("compare_batch_sizes",),
    "errors": (
        "AssumptionWarning",
        "BatchFinderError",
        "BatchFinderWarning",
        "CannotBuildBatch",
        "CannotPredict",
        "DeviceLost",
        "DeviceMismatch",
        "ExtrapolationWarning",
        "InvalidArgument",
        "LossIsNotFinite",
        "MissingDependency",
        "NoiseNotMeasured",
        "NoisyMeasurementWarning",
        "NotPicklable",
        "NothingFits",
        "NothingToTrain",
        "OutOfTime",
        "StateNotRestoredWarning",
        "UnknownLoss",
    ),
    "evaluation": ("Evaluation", "eval_batch_size"),
    "find": ("find_batch_size",),
    "max_batch": ("max_batch_size",),
    "noise": ("MicroBatchVariance", "PerExample"),
    "noise_scale": ("gradient_noise_scale",),
    "monitor": ("BatchSizeScheduler", "TrainingMonitor"),
    "predict": ("estimate_memory", "predict_max_batch_size"),
    "report": ("Report",),
    "results": (
        "BatchPlan",
        "Candidate",
        "Limit",
        "Measurement",
        "MemoryBreakdown",
        "NoiseScale",
        "Outcome",
        "ProbeResult",
        "Trial",
    ),
    "run.memory": ("memory_limit",),
    "run.state": ("preserved",),
    "testing": ("assert_fits",),
    "training": ("Search", "Training"),
}
_STRATEGIES = ("monitor", "noise", "probe", "progress", "race", "recommend", "scaling")

__all__ = [
    "AssumptionWarning",
    "BatchFinderError",
    "BatchFinderWarning",
    "BatchPlan",
    "BatchSizeScheduler",
    "Candidate",
    "CannotBuildBatch",
    "CannotPredict",
    "DeviceLost",
    "DeviceMismatch",
    "Evaluation",
    "ExtrapolationWarning",
    "InvalidArgument",
    "Limit",
    "LossIsNotFinite",
    "Measurement",
    "MemoryBreakdown",
    "MicroBatchVariance",
    "MissingDependency",
    "NoiseNotMeasured",
    "NoiseScale",
    "NoisyMeasurementWarning",
    "NotPicklable",
    "NothingFits",
    "NothingToTrain",
    "OutOfTime",
    "Outcome",
    "PerExample",
    "ProbeResult",
    "Report",
    "Search",
    "StateNotRestoredWarning",
    "Training",
    "TrainingMonitor",
    "Trial",
    "UnknownLoss",
    "assert_fits",
    "compare_batch_sizes",
    "estimate_memory",
    "eval_batch_size",
    "find_batch_size",
    "gradient_noise_scale",
    "max_batch_size",
    "memory_limit",
    "predict_max_batch_size",
    "preserved",
]


def __getattr__(name: str) -> Any:
    if name in _STRATEGIES:
        return import_module(f"batchfinder.{name}")
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"batchfinder.{room}"), name)
    raise AttributeError(f"module 'batchfinder' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, *_STRATEGIES, "__version__"))
