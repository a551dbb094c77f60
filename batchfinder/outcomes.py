"""Every named outcome: how a trial ended, what binds, which plans count and why, how one held."""

from __future__ import annotations

from enum import Enum

from batchfinder.wording.probe import ENDED

__all__ = ["Judgement", "Limit", "Outcome", "Role", "Stage", "Why"]


class Outcome(Enum):
    """How one trial at one batch size ended."""

    FITS = "fits"
    OUT_OF_MEMORY = "out of memory"
    AT_THE_EDGE = "at the edge of memory"
    INDEX_LIMIT = "index limit"
    KILLED = "killed"

    @property
    def words(self) -> str:
        """How it ended, as the end of a sentence that begins with the size."""
        return ENDED[self.name]


class Limit(Enum):
    """The constraint that would change the choice if it were relaxed."""

    MEMORY = "memory"
    NOISE = "gradient noise"
    THROUGHPUT = "throughput"
    DATASET = "dataset size"
    USER = "your ceiling"
    INDEX = "index limit"
    TIME = "time"
    DATA_LOADING = "data loading"
    UPDATES = "the length of the training"
    EVIDENCE = "measurement uncertainty"
    """Another size may be faster; nothing measured shows it reliably."""
    CONFIRMATION = "the confirmation"
    """The size of the shortest predicted time was not confirmed by training."""


class Why(Enum):
    """Why this plan was chosen."""

    FASTEST = "fastest"
    NEAR_FASTEST = "near the fastest"
    SURELY_FASTER = "surely faster than yours"
    YOURS_IS_AS_GOOD = "yours is as good"
    YOURS_WAITS_FOR_DATA = "yours waits for data"
    YOURS_WITHOUT_NOISE = "yours, since the noise scale is unknown"
    THROUGHPUT_KNEE = "throughput knee"
    OBJECTIVE = "objective"
    CONFIRMED = "confirmed"
    LAST_TRIED = "last tried"
    YOURS_FOR_WANT_OF_BETTER = "yours, since no other was confirmed"


class Role(Enum):
    """Why a candidate is of interest beside its price."""

    YOURS = "yours"
    LARGEST_THAT_FITS = "largest that fits"
    LARGEST_CONSIDERED = "largest considered"
    """Larger micro-batches fit, but were not timed or are excluded by another constraint."""
    HIGHEST_THROUGHPUT = "highest throughput"
    FEWEST_SAMPLES = "fewest samples"
    NOT_CONFIRMED = "not confirmed"
    """It was trained for a few steps and failed."""


class Judgement(Enum):
    """How a branch of training steps went."""

    HELD = "held"
    NO_LOSS = "no loss"
    NOT_FINITE = "not finite"
    ROSE = "rose"
    OSCILLATED = "oscillated"
    OUT_OF_MEMORY = "out of memory"
    AT_THE_EDGE = "at the edge of memory"
    INDEX_LIMIT = "index limit"
    NO_UPDATE = "no update"
    RATE_NOT_KEPT = "rate not kept"

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong; a step that returns no loss is judged by memory alone."""
        return self in (Judgement.HELD, Judgement.NO_LOSS)

    @property
    def is_about_size(self) -> bool:
        """Whether a smaller micro-batch may do."""
        sizes = (Judgement.OUT_OF_MEMORY, Judgement.AT_THE_EDGE, Judgement.INDEX_LIMIT)
        return self in sizes

    @property
    def is_about_use(self) -> bool:
        """Whether the updates at the rate were not made, so that no rate can be told good."""
        return self in (Judgement.NO_UPDATE, Judgement.RATE_NOT_KEPT)


class Stage(Enum):
    """The stages of a call, in order."""

    OPEN = "inspect the samples"
    PROBE = "which micro-batches fit"
    MEASURE = "throughput and peak memory per size"
    NOISE = "gradient noise scale"
    RECOMMEND = "choose batch size and learning rate"
    RACE = "race of learning rates"
    CONFIRM = "check the choice by training"
