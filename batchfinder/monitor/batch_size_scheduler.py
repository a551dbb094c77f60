"""BatchSizeScheduler: batches that grow while one trains, and a learning rate that goes along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from batchfinder.errors import CannotBuildBatch, InvalidArgument
from batchfinder.keywords import options_named
from batchfinder.monitor.checks import check_callable, check_count, optimizers_of
from batchfinder.monitor.growing import Drawn, GrowingLoader, devices_of
from batchfinder.monitor.parts import WHOLE, count_of, cut
from batchfinder.monitor.rate import RateFactor
from batchfinder.monitor.schedules import FollowMonitor, Progress, Schedule, Target
from batchfinder.monitor.training_monitor import TrainingMonitor
from batchfinder.protocols import Batch, LearningRateRule
from batchfinder.results import NoiseScale
from batchfinder.run.step import family_of
from batchfinder.scaling import rule_for

__all__ = ["BatchSizeScheduler"]

_STATE = {"steps", "samples", "base_batch_size", "batch_size", "rate", "remaining"}


@options_named
class BatchSizeScheduler:
    """Change the batch size during training, and the learning rate with it.

    For example::

        growth = BatchSizeScheduler(loader, optimizer, Doubling(200_000, at_most=1024))
        for epoch in range(epochs):
            for batch in growth.loader:
                optimizer.zero_grad()
                for part, share in growth.parts(batch):      # micro-batches that fit
                    (share * loss_fn(model(part[0]), part[1])).backward()
                optimizer.step()
                growth.step()

    ``growth.loader`` is the user's loader with a different batch sampler. It keeps the sampler (for
    ``DistributedSampler``, call ``set_epoch`` as before), ``drop_last``, workers and collate
    function. The size of a batch is fixed when it is drawn: a schedule over samples takes effect at
    the exact sample, with any number of workers; ``FollowMonitor`` lags by the batches that workers
    prefetch (``num_workers × prefetch_factor``).

    The learning rate is multiplied only during updates: ``optimizer.param_groups`` and
    learning-rate schedulers keep the rates for the original batch size. It increases over
    ``ramp_steps`` steps and decreases at once.

    Args:
        loader: a ``DataLoader`` with a ``batch_size``, the initial batch size.
        optimizer: the optimizer, or several.
        schedule: a schedule of ``batchfinder.monitor``, or a function from ``Progress`` to
            ``Target``.
        accumulate: exceed ``largest`` by splitting batches in ``parts``; otherwise stop there.
        largest: the largest micro-batch that fits (``report.max_batch_size``).
        learning_rate_rule: the rule that scales the rate; ``scaling.fixed`` keeps it constant.
            Default: the rule of the optimizer's family.
        noise_scale: the cap of the rule (``report.noise_scale``); with a monitor, that of the
            monitor.
        monitor: the ``TrainingMonitor``, which is notified of every change; required by
            ``FollowMonitor``.
        ramp_steps: steps over which the learning rate increases.

    Raises:
        CannotBuildBatch: if the loader has a custom batch sampler or an ``IterableDataset``.
        InvalidArgument: if ``FollowMonitor`` has no monitor, or ``largest`` is below 1.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        schedule: Schedule,
        *,
        accumulate: bool = True,
        largest: int | None = None,
        learning_rate_rule: LearningRateRule | None = None,
        noise_scale: NoiseScale | None = None,
        monitor: TrainingMonitor | None = None,
        ramp_steps: int = 20,
    ) -> None:
        if isinstance(schedule, FollowMonitor) and monitor is None:
            raise InvalidArgument("expected monitor= for FollowMonitor; found none")
        optimizers = optimizers_of(optimizer)
        check_callable("schedule", schedule)
        check_count("ramp_steps", ramp_steps, 0)
        if learning_rate_rule is not None:
            check_callable("learning_rate_rule", learning_rate_rule)
        if monitor is not None and not isinstance(monitor, TrainingMonitor):
            raise InvalidArgument(
                f"expected monitor as a TrainingMonitor; found {type(monitor).__name__}"
            )
        if largest is not None:
            check_count("largest", largest, 1)
        self.steps = 0
        self.samples = 0
        """Samples of the steps that were made, on this device."""
        self._schedule, self._monitor = schedule, monitor
        self._accumulate, self._largest = accumulate, largest
        self._family = family_of(optimizers)
        self._rule = learning_rate_rule or rule_for(self._family).rule
        self._noise = noise_scale
        self._optimizers = optimizers
        self._rate = RateFactor(optimizers, ramp_steps)
        self._in_step: list[Drawn] = []
        self._rows_are_samples = False
        """Whether some batch had as many rows as were drawn, so that rows count samples."""
        self.loader = GrowingLoader(loader, self._next, self._epoch_begins, self._hand_out)
        """The user's loader, to be iterated in its place."""
        self._base = self.loader.base_batch_size
        self._devices = devices_of(self.loader.sampler.sampler)
        self._drawing = self._base
        self.last_batch_size = self._base
        """Samples per optimizer step and device at the batch that was handed out last."""

    @property
    def rate_factor(self) -> float:
        """What the learning rate is multiplied by in the next update."""
        return self._rate.value

    @property
    def last_learning_rate(self) -> float:
        """The first group's learning rate in the next update."""
        return float(self._optimizers[0].param_groups[0]["lr"]) * self._rate.value

    def parts(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """``batch`` as (part, share) pairs, none larger than ``largest``.

        With a monitor these are its parts too. For a loss that is a mean over samples.

        Raises:
            CannotBuildBatch: where it must be cut and cannot be.
        """
        pieces = self._pieces(batch)
        if self._monitor is not None:
            return self._monitor.parts(batch, at_least=pieces)
        if pieces == 1:
            return iter(((batch, WHOLE),))
        parts = cut(batch, pieces)
        total = sum(count for _, count in parts)
        return iter([(part, count / total) for part, count in parts])

    def _pieces(self, batch: Batch) -> int:
        """Micro-batches that ``batch`` must be cut into."""
        if not self._accumulate or self._largest is None:
            return 1
        rows = count_of(batch)
        drawn = len(self._in_step[-1].indices) if self._in_step else rows
        if rows == drawn:
            self._rows_are_samples = True
        samples = (rows if self._rows_are_samples else drawn) or self._largest
        pieces = -(-samples // self._largest)
        if pieces > 1 and rows not in (None, samples):
            raise CannotBuildBatch(
                f"expected a batch of {samples} samples along the first dimension of its tensors, "
                f"to be split into {pieces} micro-batches of at most {self._largest}; found "
                f"{rows} rows: split it yourself, or pass accumulate=False"
            )
        return pieces

    def step(self) -> None:
        """Call once after every optimizer step."""
        self.steps += 1
        self.samples += sum(len(drawn.indices) for drawn in self._in_step)
        self._in_step.clear()
        self._rate.advance()
        self._tell_monitor()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resume needs; within an epoch also the indices not trained on yet."""
        rest = self.loader.sampler.remaining()
        unfinished = [index for drawn in self._in_step for index in drawn.indices]
        return {
            "steps": self.steps,
            "samples": self.samples,
            "base_batch_size": self._base,
            "batch_size": self.last_batch_size,
            "rate": self._rate.state_dict(),
            "remaining": None if rest is None else unfinished + rest,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken: the next epoch is what remained of that one.

        Raises:
            InvalidArgument: where it is no state of a scheduler.
        """
        missing = _STATE if not isinstance(state_dict, dict) else _STATE - state_dict.keys()
        if missing:
            raise InvalidArgument(
                "expected a state from BatchSizeScheduler.state_dict(); it lacks "
                f"{', '.join(sorted(missing))} in it"
            )
        self.steps, self.samples = state_dict["steps"], state_dict["samples"]
        self._base = state_dict["base_batch_size"]
        self.last_batch_size = self._drawing = state_dict["batch_size"]
        self._rate.load_state_dict(state_dict["rate"])
        self._in_step.clear()
        rest = state_dict["remaining"]
        self.loader.sampler.resume(None if rest is None else list(rest))
        self._tell_monitor()

    def close(self) -> None:
        """Take the hooks off the optimizer: from here on the rate is the user's own."""
        self._rate.close()

    def _next(self) -> Target:
        """The size of the batch that is drawn next."""
        drawn = [*self._in_step, *self.loader.sampler.ahead]
        progress = Progress(
            samples=self.samples + sum(len(each.indices) for each in drawn),
            batch_size=self._drawing,
            base_batch_size=self._base,
            family=self._family,
            noise_scale=self._noise_now(),
            devices=self._devices,
        )
        target = self._schedule(progress)
        if not isinstance(target, Target):
            raise InvalidArgument(
                f"expected the schedule to return a Target; found {type(target).__name__}: "
                "return Target(batch_size)"
            )
        check_count("the schedule's batch_size", target.batch_size, 1)
        if self._largest is not None and not self._accumulate:
            target = Target(min(target.batch_size, self._largest), target.rate_factor)
        self._drawing = target.batch_size
        return target

    def _epoch_begins(self) -> None:
        self._in_step.clear()

    def _hand_out(self, drawn: Drawn) -> None:
        """A batch leaves the loader: its size and rate are those of the next update."""
        self._in_step.append(drawn)
        target = drawn.target
        factor = target.rate_factor
        if target.batch_size != self.last_batch_size or factor is not None:
            if factor is None:
                sizes = (self._base * self._devices, target.batch_size * self._devices)
                factor = self._rule(1.0, *sizes, self._noise_now())
            self._rate.move_to(factor)
            self.last_batch_size = target.batch_size
            self._tell_monitor()

    def _noise_now(self) -> NoiseScale | None:
        return self._noise if self._monitor is None else self._monitor.noise_scale or self._noise

    def _tell_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.batch_size = self.last_batch_size
            self._monitor.rate_factor = self._rate.value
