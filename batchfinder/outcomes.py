"""Every named outcome: how a trial ended, which constraint binds, which stage runs."""

from __future__ import annotations

from enum import Enum

__all__ = ["Limit", "Outcome", "Stage"]


class Outcome(Enum):
    """How one trial at one batch size ended."""

    FITS = "ran and fitted"
    OUT_OF_MEMORY = "ran out of memory"
    AT_THE_EDGE = "ran, but the allocator went on flushing its cache: too close to the limit"
    INDEX_LIMIT = "met an index or grid limit of a kernel, which more memory would not move"
    KILLED = "its process was killed by the operating system"


class Limit(Enum):
    """The constraint that, relaxed, would have changed the choice."""

    MEMORY = "memory: a larger batch would not fit"
    NOISE = "gradient noise: a larger batch would spend more samples than it saves steps"
    THROUGHPUT = "throughput: a larger batch is hardly processed faster per sample"
    DATASET = "dataset: it holds no more samples than this"
    USER = "the ceiling that the caller set"
    TIME = "time: larger batches were not tried"
    INDEX = "index limit: a kernel cannot address a larger batch, whatever the memory"


class Stage(Enum):
    """The stages of a call, in order."""

    PROBE = "which micro-batches fit?"
    MEASURE = "what does each one cost?"
    NOISE = "what does each one buy?"
    RECOMMEND = "which one to use?"
    RACE = "which learning rate trains fastest?"
    CONFIRM = "does the choice hold?"
