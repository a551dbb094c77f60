"""Every error and warning that batchfinder raises, each with its cause and its way out.

The text after "Way out:" in each docstring is what the documentation's page of errors shows.
A bug in the user's own code is never wrapped in one of these: it propagates unchanged,
with a note (``BaseException.add_note``) that names the batch size and the stage.
"""

from __future__ import annotations

__all__ = [
    "BatchFinderError",
    "BatchFinderWarning",
    "CannotBuildBatch",
    "CannotPredict",
    "DeviceLost",
    "DeviceMismatch",
    "InvalidArgument",
    "LossIsNotFinite",
    "MissingDependency",
    "NoiseNotMeasured",
    "NotPicklable",
    "NothingFits",
    "NothingToTrain",
    "OutOfTime",
    "PeerFailed",
    "RanksNotTogether",
    "StateNotRestoredWarning",
    "TrainingFailed",
    "UnknownArgument",
    "UnknownLoss",
]


class BatchFinderError(RuntimeError):
    """Base class of all errors raised by batchfinder.

    Way out: catch this class to catch all of them; each subclass describes what to do.
    """


class InvalidArgument(BatchFinderError, ValueError):
    """An argument has an invalid value, such as a ceiling below 1.

    Way out: the message states what was expected and what was found.
    """


class UnknownArgument(InvalidArgument, TypeError):
    """A function or class received an unknown keyword argument.

    Way out: the message suggests the intended argument.
    """


class NothingFits(BatchFinderError):
    """Not even the smallest batch fits in memory.

    Way out: activation checkpointing, lower precision (``autocast``), a smaller input or a
    smaller model. Accumulation does not help: a micro-batch of 1 is already the smallest.
    """


class CannotBuildBatch(BatchFinderError):
    """A batch of another size could not be built from the loader.

    Way out: pass ``Training(model, loader, make_loader=lambda batch_size: ...)``, which builds your
    loader at any size.
    """


class OutOfTime(BatchFinderError):
    """Samples could not be read within the time budget.

    Way out: raise ``budget_seconds``, or give the loader more worker processes.
    """


class CannotPredict(BatchFinderError):
    """Memory cannot be predicted: the step depends on actual data values.

    Way out: the message names the cause. On the device, ``max_batch_size`` measures the memory
    instead of predicting it.
    """


class TrainingFailed(BatchFinderError):
    """A training of a study raised an error in a worker of the executor.

    Way out: the message contains the error and the worker's traceback. Without ``executor``, the
    original error is raised.
    """


class UnknownLoss(BatchFinderError):
    """The loss could not be inferred from the model's output and the batch, or is not a scalar.

    Way out: pass ``loss_fn=`` (output, target -> scalar) or ``train_step=`` (model, batch ->
    scalar).
    """


class LossIsNotFinite(BatchFinderError):
    """The loss was NaN or infinite at the user's own batch size and learning rate.

    Way out: check the data and the learning rate; train a few steps by hand first.
    """


class NothingToTrain(BatchFinderError):
    """No parameter would be trained: there are none, all are frozen, or the optimizer has others.

    Way out: unfreeze a parameter, or build the optimizer over this model's parameters.
    """


class DeviceMismatch(BatchFinderError):
    """Model, loss and batch are on different devices.

    Way out: move the model and the loss to the same device before the call.
    """


class DeviceLost(BatchFinderError):
    """The device is in an unrecoverable error state (a sticky error).

    Way out: restart the process; ``search=Search(isolate=make)`` runs every trial in a separate
    process.
    """


class RanksNotTogether(BatchFinderError):
    """The ranks of a training did not make the same call, or diverged during it.

    Way out: call the function on every rank, with the same arguments and the same model; or pass
    ``Training(model, loader, ranks=batchfinder.ALONE)``, with the bare module, on a rank that
    searches alone.
    """


class PeerFailed(BatchFinderError):
    """Another rank ended the call with an error.

    Way out: see the traceback in the output of that rank. The objects of this rank are unchanged.

    Args:
        rank: which rank.
        kind: the type of its error.
        message: its text.
        where: what it was doing.
    """

    def __init__(self, rank: int, kind: str, message: str, where: str) -> None:
        self.rank, self.kind, self.message, self.where = rank, kind, message, where
        said = f": {message}" if message else ""
        super().__init__(
            f"rank {rank} stopped: {kind} in {where}{said}; see the output of that rank for the "
            "traceback"
        )

    def __reduce__(self) -> tuple[type[PeerFailed], tuple[int, str, str, str]]:
        return PeerFailed, (self.rank, self.kind, self.message, self.where)


class NotPicklable(BatchFinderError):
    """Isolation needs factories that a child process can import.

    Way out: pass functions defined at the top level of an importable module.
    """


class NoiseNotMeasured(BatchFinderError):
    """There were too few finite gradients to estimate the gradient noise scale.

    Way out: a smaller micro-batch or more data; with mixed precision, train until the gradient
    scaler has settled; ``noise=None`` omits the noise scale.
    """


class MissingDependency(BatchFinderError, ImportError):
    """An optional package is required.

    Way out: the message names the package and the command that installs it.
    """


class BatchFinderWarning(UserWarning):
    """Base class of all warnings issued by batchfinder.

    Way out: ``warnings.filterwarnings("ignore", category=BatchFinderWarning)`` silences them all.
    """


class StateNotRestoredWarning(BatchFinderWarning):
    """A checksum of the model, optimizer or generators differs from before the call.

    Way out: the message names what differs; pass that object in ``Training(..., preserve=[...])``.
    """
