"""Every error and warning that batchfinder raises, each with its cause and its way out.

The text after "Way out:" in each docstring is what the documentation's page of errors shows.
A bug in the user's own code is never wrapped in one of these: it passes through as itself,
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
    """The base of every error that batchfinder raises itself.

    Way out: catch this class to catch all of them; each subclass says what to do.
    """


class InvalidArgument(BatchFinderError, ValueError):
    """An argument has an invalid value, such as a ceiling below 1.

    Way out: the message says what was expected and what was found.
    """


class UnknownArgument(InvalidArgument, TypeError):
    """A function or class was given a keyword that it does not take.

    Way out: the message names the argument that was meant.
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
    """Samples could not be read in the time that the caller gave.

    Way out: raise ``budget_seconds``, or give the loader more worker processes.
    """


class CannotPredict(BatchFinderError):
    """Memory cannot be predicted: the step depends on actual data values.

    Way out: the message names what stands in the way. ``max_batch_size`` measures instead, and
    needs the device; it never needs a prediction.
    """


class TrainingFailed(BatchFinderError):
    """A training of a study ended with an error of its own in a worker of the executor.

    Way out: the message holds the error and the worker's traceback. Without ``executor`` the error
    is raised as itself.
    """


class UnknownLoss(BatchFinderError):
    """The loss could not be found from the model's output and the batch, or is no scalar.

    Way out: pass ``loss_fn=`` (output, target -> scalar) or ``train_step=`` (model, batch ->
    scalar).
    """


class LossIsNotFinite(BatchFinderError):
    """The loss was NaN or infinite at the user's own batch size and learning rate.

    Way out: check the data and the learning rate; train a few steps by hand first.
    """


class NothingToTrain(BatchFinderError):
    """No parameter would be trained: none exists, all are frozen, or the optimizer holds others.

    Way out: unfreeze a parameter, or build the optimizer over this model's parameters.
    """


class DeviceMismatch(BatchFinderError):
    """Model, loss and batch do not end up on one device.

    Way out: move the model and the loss to the same device before the call.
    """


class DeviceLost(BatchFinderError):
    """The device is in an error state that no later call can leave (a sticky error).

    Way out: restart the process; ``search=Search(isolate=make)`` runs every trial in a
    process of its own.
    """


class RanksNotTogether(BatchFinderError):
    """The ranks of a training did not make the same call, or did not go the same way in it.

    Way out: call the function on every rank, with the same arguments and the same model; or pass
    ``Training(model, loader, ranks=batchfinder.ALONE)`` on the one rank that is to search by
    itself, with the bare module.
    """


class PeerFailed(BatchFinderError):
    """Another rank has ended the call with an error of its own.

    Way out: see the traceback in that rank's own output. The objects of this rank are unchanged.

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
    """Too few finite gradients to say anything about the gradient noise scale.

    Way out: a smaller micro-batch or more data; with mixed precision, train until the gradient
    scaler has settled; ``noise=None`` leaves the noise scale out.
    """


class MissingDependency(BatchFinderError, ImportError):
    """An optional package is needed for what was asked.

    Way out: the message names the package and the command that installs it.
    """


class BatchFinderWarning(UserWarning):
    """The base of every warning that batchfinder issues.

    Way out: ``warnings.filterwarnings("ignore", category=BatchFinderWarning)`` silences them all.
    """


class StateNotRestoredWarning(BatchFinderWarning):
    """The digest of the model, optimizer or generators differs from the one before the call.

    Way out: the message names what differs; name that object in ``Training(...,
    preserve=[...])``.
    """
