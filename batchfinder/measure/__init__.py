"""Throughput: what each micro-batch costs, timed with an interval."""

from batchfinder.measure.timed import MEMORY_GONE, NOTHING_TIMED, Effort, about_timings, measure

__all__ = ["MEMORY_GONE", "NOTHING_TIMED", "Effort", "about_timings", "measure"]
