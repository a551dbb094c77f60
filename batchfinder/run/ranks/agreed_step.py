"""A training step that all ranks take together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from batchfinder.protocols import Batch, Ranks, TrainStep, UpdateWatch, WholeStep
from batchfinder.rates import GroupRate, OptimizerFamily, UpdateEffect
from batchfinder.run.ranks.calls import Wrapping, mend
from batchfinder.wording import Caveat

__all__ = ["AgreedStep", "AgreedTrainStep"]

_STEP = "forward and backward"


class AgreedTrainStep:
    """A ``TrainStep`` of which every part ends alike on all ranks.

    The loss is the mean over ranks, the same number on each. Under a wrapper that averages
    gradients they are its averages; those of a bare module are averaged here, or the weights would
    part.

    Args:
        step: this rank's own.
        ranks: who takes it together.
        wrapping: how the model is distributed.
    """

    def __init__(self, step: TrainStep, ranks: Ranks, wrapping: Wrapping) -> None:
        self._own = step
        self.ranks = ranks
        self.wrapping = wrapping
        self._shares_samples = ranks.replicas < ranks.size
        self._mend = partial(mend, step.modules())

    @property
    def device(self) -> torch.device:
        return self._own.device

    @property
    def updates_itself(self) -> bool:
        return self._own.updates_itself

    def modules(self) -> list[torch.nn.Module]:
        return self._own.modules()

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return self._own.optimizers()

    def parameters(self) -> list[torch.nn.Parameter]:
        return self._own.parameters()

    def holdings(self) -> Iterable[torch.Tensor]:
        return self._own.holdings()

    def forward_backward(self, batch: Batch, scale: float = 1.0) -> torch.Tensor:
        """As this rank's own; the loss is the mean over all ranks, on each."""
        if not self.ranks.is_gated:
            return self._own.forward_backward(batch, scale)
        with self.ranks.guarded(_STEP, self._mend):
            with self.ranks.gate():
                loss = self._own.forward_backward(batch, scale)
            averages = not (self.wrapping.exchanges or self._shares_samples or self.updates_itself)
            averaged = self.parameters() if averages else ()
            without = tuple(n for n, p in enumerate(averaged) if p.grad is None)
            mean = loss.new_empty(())  # made before the ranks are said to be well
            told = self.ranks.tell(_STEP, (float(loss), without))
            if averages:
                self._average([missing for _, missing in told])
        return mean.fill_(math.fsum(each for each, _ in told) / self.ranks.size)

    def _average(self, missing: list[tuple[int, ...]]) -> None:
        """Gradients as the mean over ranks, as a wrapper would leave them."""
        nowhere = set.intersection(*map(set, missing))
        gradients = []
        for number, parameter in enumerate(self.parameters()):
            if number in nowhere:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        if any(set(each) != nowhere for each in missing):  # zeros were made, which takes memory
            self.ranks.tell("the missing gradients", None)
        for gradient in gradients:
            torch.distributed.all_reduce(gradient)
            gradient.div_(self.ranks.size)

    @property
    def weight(self) -> float:
        return self._own.weight

    def loss_scale(self) -> float:
        return self._own.loss_scale()

    def update(self) -> None:
        if not self.ranks.is_gated:
            self._own.update()
            return
        with self.ranks.guarded("the update", self._mend):
            with self.ranks.gate():
                self._own.update()
            self.ranks.tell("the update", None)

    def learning_rate(self) -> float | None:
        return self._own.learning_rate()

    def scale_learning_rate(self, factor: float) -> None:
        self._own.scale_learning_rate(factor)

    def set_learning_rate(self, rate: float) -> None:
        self._own.set_learning_rate(rate)

    @property
    def optimizer_family(self) -> OptimizerFamily:
        return self._own.optimizer_family

    def zero_grad(self) -> None:
        self._own.zero_grad()


class AgreedStep(AgreedTrainStep):
    """The same of a ``WholeStep``."""

    def __init__(self, step: WholeStep, ranks: Ranks, wrapping: Wrapping) -> None:
        super().__init__(step, ranks, wrapping)
        self._whole = step

    @property
    def assumptions(self) -> tuple[Caveat, ...]:
        return self._whole.assumptions

    @property
    def is_compiled(self) -> bool:
        return self._whole.is_compiled

    @property
    def optimizer_name(self) -> str:
        return self._whole.optimizer_name

    @property
    def precision(self) -> str:
        return self._whole.precision

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        return self._whole.settings

    @property
    def has_looked(self) -> bool:
        return self._whole.has_looked

    def look(self, batch: Batch, *, forward_backward: Callable[[Batch], Any] | None = None) -> None:
        """As this rank's own, in a step that all take; whatever it meets, the first trial tells."""
        run, parted = forward_backward or self.forward_backward, list[Exception]()

        def step(batch: Batch) -> None:
            try:
                run(batch)
            except Exception as error:
                if self.ranks.is_over:
                    parted.append(error)
                raise

        self._whole.look(batch, forward_backward=step)
        if parted:
            raise parted[0]

    def prime(self) -> None:
        with self.ranks.guarded("the optimizer's state", self._mend):
            with self.ranks.gate():
                self._whole.prime()
            self.ranks.tell("the optimizer's state", None)

    def reached(self) -> list[torch.nn.Parameter]:
        return self._whole.reached()

    def check_loss(self, loss: torch.Tensor) -> None:
        self._whole.check_loss(loss)

    def base_learning_rate(self) -> float | None:
        return self._whole.base_learning_rate()

    def group_rates(self, recommended: float | None = None) -> tuple[GroupRate, ...]:
        return self._whole.group_rates(recommended)

    @contextmanager
    def watched(self) -> Iterator[UpdateWatch]:
        with self._whole.watched() as watch:
            yield _AgreedWatch(watch, self.ranks)


class _AgreedWatch:
    """What the updates did on any rank: a shard may be empty on one."""

    def __init__(self, watch: UpdateWatch, ranks: Ranks) -> None:
        self._own, self._ranks = watch, ranks

    @property
    def updates(self) -> int:
        return self._own.updates

    @property
    def made(self) -> int:
        return max(self._ranks.tell("the updates made", self._own.made))

    @property
    def in_a_row(self) -> int:
        return max(self._ranks.tell("the updates in a row", self._own.in_a_row))

    def effect(self) -> UpdateEffect:
        effects = self._ranks.tell("the updates' effect", self._own.effect())
        states = [each.state_moved for each in effects if each.state_moved is not None]
        made = [each.made for each in effects if each.made is not None]
        return replace(
            effects[0],
            parameters_moved=any(each.parameters_moved for each in effects),
            state_moved=any(states) if states else None,
            made=max(made) if len(made) == len(effects) else None,
            rate_kept=all(each.rate_kept for each in effects),
        )
