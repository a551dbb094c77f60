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
    from batchfinder.compare import Comparison, Stopping, compare_batch_sizes
    from batchfinder.errors import (
        BatchFinderError,
        BatchFinderWarning,
        CannotBuildBatch,
        CannotPredict,
        DeviceLost,
        DeviceMismatch,
        InvalidArgument,
        LossIsNotFinite,
        MissingDependency,
        NoiseNotMeasured,
        NothingFits,
        NothingToTrain,
        NotPicklable,
        OutOfTime,
        PeerFailed,
        RanksNotTogether,
        StateNotRestoredWarning,
        UnknownArgument,
        UnknownLoss,
    )
    from batchfinder.evaluation import Evaluation, eval_batch_size
    from batchfinder.find import find_batch_size
    from batchfinder.max_batch import max_batch_size
    from batchfinder.monitor import BatchSizeScheduler, TrainingMonitor
    from batchfinder.noise import MicroBatchVariance, PerExample
    from batchfinder.noise_scale import gradient_noise_scale
    from batchfinder.predict import (
        DevicePredictions,
        MemoryEstimate,
        MemoryPrediction,
        MemorySavings,
        estimate_memory,
        memory_savings,
        predict_for_devices,
        predict_max_batch_size,
    )
    from batchfinder.probe import SearchSpace
    from batchfinder.protocols import (
        BatchSource,
        LearningRateRule,
        MemoryBackend,
        NoiseEstimator,
        Objective,
        Observer,
        RankGroup,
        TrainStep,
    )
    from batchfinder.race import Race
    from batchfinder.rates import GroupRate
    from batchfinder.report import Report
    from batchfinder.results import (
        BatchPlan,
        Candidate,
        Confirmation,
        Environment,
        Limit,
        Measurement,
        MemoryBreakdown,
        NoiseScale,
        Note,
        Outcome,
        ProbeResult,
        RaceArm,
        RaceResult,
        Recommendation,
        Stage,
        StageStarted,
        Trial,
        TrialStarted,
    )
    from batchfinder.run.memory import memory_limit
    from batchfinder.run.ranks import ALONE, TorchRanks
    from batchfinder.run.state import preserved
    from batchfinder.testing import assert_fits
    from batchfinder.training import Search, Training

__version__ = "0.2.0.dev0"

__all__ = [
    "ALONE",
    "BatchFinderError",
    "BatchFinderWarning",
    "BatchPlan",
    "BatchSizeScheduler",
    "BatchSource",
    "Candidate",
    "CannotBuildBatch",
    "CannotPredict",
    "Comparison",
    "Confirmation",
    "DeviceLost",
    "DeviceMismatch",
    "DevicePredictions",
    "Environment",
    "Evaluation",
    "GroupRate",
    "InvalidArgument",
    "LearningRateRule",
    "Limit",
    "LossIsNotFinite",
    "Measurement",
    "MemoryBackend",
    "MemoryBreakdown",
    "MemoryEstimate",
    "MemoryPrediction",
    "MemorySavings",
    "MicroBatchVariance",
    "MissingDependency",
    "NoiseEstimator",
    "NoiseNotMeasured",
    "NoiseScale",
    "NotPicklable",
    "Note",
    "NothingFits",
    "NothingToTrain",
    "Objective",
    "Observer",
    "OutOfTime",
    "Outcome",
    "PeerFailed",
    "PerExample",
    "ProbeResult",
    "Race",
    "RaceArm",
    "RaceResult",
    "RankGroup",
    "RanksNotTogether",
    "Recommendation",
    "Report",
    "Search",
    "SearchSpace",
    "Stage",
    "StageStarted",
    "StateNotRestoredWarning",
    "Stopping",
    "TorchRanks",
    "TrainStep",
    "Training",
    "TrainingMonitor",
    "Trial",
    "TrialStarted",
    "UnknownArgument",
    "UnknownLoss",
    "assert_fits",
    "compare_batch_sizes",
    "estimate_memory",
    "eval_batch_size",
    "find_batch_size",
    "gradient_noise_scale",
    "max_batch_size",
    "memory_limit",
    "memory_savings",
    "predict_for_devices",
    "predict_max_batch_size",
    "preserved",
]

# Names are looked up in these when they are first asked for, the quick ones to import first: the
# package costs next to nothing, and its pytest plugin loads no torch where nobody needs it.
_HOMES = (
    "errors",
    "results",
    "rates",
    "protocols",
    "probe",
    "report",
    "training",
    "run.memory",
    "run.ranks",
    "run.state",
    "noise",
    "race",
    "monitor",
    "max_batch",
    "noise_scale",
    "evaluation",
    "testing",
    "predict",
    "compare",
    "find",
)
_STRATEGIES = ("noise", "probe", "progress", "race", "recommend", "scaling")


def __getattr__(name: str) -> Any:
    if name in _STRATEGIES:
        return import_module(f"batchfinder.{name}")
    if name in __all__:
        for home in _HOMES:
            offered = vars(import_module(f"batchfinder.{home}"))
            if name in offered:
                return offered[name]
    raise AttributeError(f"module 'batchfinder' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted((*__all__, *_STRATEGIES, "__version__"))
