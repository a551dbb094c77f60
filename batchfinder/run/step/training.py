"""One training step of the user's, cut where accumulation cuts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.protocols import Batch, Ranks
from batchfinder.rates import GroupRate, OptimizerFamily
from batchfinder.run.ranks import ALONE, mend
from batchfinder.run.step import faults
from batchfinder.run.step.compiled import Compilation
from batchfinder.run.step.optimizers import family_of, held_by, lay_out, name_of, refuse_sparse
from batchfinder.run.step.own_update import Did, Sight, Watch, check_every_call
from batchfinder.run.step.precision import (
    Context,
    SeenPrecision,
    precision_of,
    scaler_caveat,
    settings_of,
)
from batchfinder.run.step.update import Clip, Rates, Updates, Weights
from batchfinder.run.torch_internals.tensors import under_fake_tensors
from batchfinder.run.tree import moved
from batchfinder.training import Backward
from batchfinder.wording import Caveat

__all__ = ["Compute", "Step"]

Compute: TypeAlias = Callable[[Batch], tuple[torch.Tensor | float | None, float | None]]
"""A batch on the device -> the loss (``None`` or a float where it did backward and update), and
its weight in the accumulated mean, if it has one."""


class Step:
    """A ``TrainStep``: what computes the loss, what updates, and in which precision.

    Built by ``step_from``; ``assumptions`` says what was inferred on the way.
    """

    ranks: Ranks = ALONE

    def __init__(
        self,
        compute: Compute,
        modules: Sequence[torch.nn.Module],
        parameters: Sequence[torch.nn.Parameter],
        optimizers: Sequence[Any],
        *,
        device: torch.device,
        context: Context,
        backward: Backward | None = None,
        scaler: Any = None,
        clip: Clip = None,
        schedulers: Sequence[Any] = (),
        rate_is_known: bool = True,
        assumptions: Callable[[], Iterable[Caveat]] = tuple,
        compiled: Sequence[Any] = (),
        is_assumed: bool = False,
    ) -> None:
        self._compute = compute
        self._modules, self._parameters = list(modules), list(parameters)
        self._optimizers = list(optimizers)
        self._device = device
        self._context = context
        self._backward = backward
        self._scaler = scaler
        self._rate_is_known = rate_is_known
        self._assumed = assumptions
        self._rates = Rates(self._optimizers, schedulers)
        self._updates = Updates(self._parameters, self._optimizers, scaler, clip)
        self._weights = Weights()
        self._watch: Watch | None = None
        self._updates_itself = self._has_run = self._is_asked_again = False
        self._did = Did(updated=False, ran_backward=False)
        self.assumes_optimizer = is_assumed
        self.has_looked = False
        self._reached: list[torch.nn.Parameter] | None = None
        self._sparse_dims: dict[int, int] = {}
        self._compilation = Compilation(self._modules, compiled)
        self._seen = SeenPrecision([] if self.is_compiled else self._modules, device)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def updates_itself(self) -> bool:
        """Known after the first ``forward_backward``."""
        return self._updates_itself

    @property
    def assumptions(self) -> tuple[Caveat, ...]:
        """What was inferred; complete after the first ``forward_backward``."""
        own = (Caveat("step.own_update"),) if self._updates_itself else ()
        caveat = scaler_caveat(self._context, self._device, self._scaler)
        return (*self._assumed(), *own, *caveat, *self._compilation.notes)

    @property
    def is_compiled(self) -> bool:
        """Whether ``torch.compile`` is at work anywhere that the step reaches."""
        return self._compilation.is_any

    @property
    def optimizer_name(self) -> str:
        return name_of(self._optimizers) or "optimizer in train_step"

    @property
    def optimizer_family(self) -> OptimizerFamily:
        return family_of(self._optimizers)

    @property
    def precision(self) -> str:
        seen = self._seen.dtype
        return precision_of(self._parameters, self._context, self._device, self._scaler, seen)

    @property
    def settings(self) -> tuple[tuple[str, str], ...]:
        """Settings that change times and memory, by name, where they are on."""
        return settings_of(self._modules, self._device, is_compiled=self.is_compiled)

    def modules(self) -> list[torch.nn.Module]:
        """The model's modules, and the loss where it is one."""
        return list(self._modules)

    def optimizers(self) -> list[Any]:
        return list(self._optimizers)

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self._parameters)

    def holdings(self) -> Iterator[torch.Tensor]:
        return held_by(self._modules, self._parameters, self._optimizers)

    def forward_backward(self, batch: Batch, scale: float = 1.0) -> torch.Tensor:
        """The detached loss; raises ``UnknownLoss`` or ``NothingToTrain`` where there is none."""
        on_device = moved(batch, self._device)
        sight = Sight(self._parameters, by_value=not self._has_run and not under_fake_tensors())
        try:
            with self._compilation.apart():
                with self._context(), faults.forward_named(), self._seen.looking():
                    loss, weight = self._compute(on_device)
                has_graph = isinstance(loss, torch.Tensor) and loss.requires_grad
                by_itself = not has_graph or sight.ran_backward or sight.updated
                if isinstance(loss, torch.Tensor) and not by_itself:
                    self._run_backward(loss, self._weights.share(weight, scale))
        except BaseException:
            mend(self._modules)  # a wrapper may have been cut in the middle of an iteration
            raise
        self._has_run = True
        self._did = Did(sight.updated, sight.ran_backward, by_itself)  # or in a hook of backward
        if not self._is_asked_again:
            self._learn_from(self._did, batch, scale)
        if isinstance(loss, torch.Tensor):
            return loss.detach()
        return torch.tensor(math.nan if loss is None else loss)

    def _learn_from(self, did: Did, batch: Batch, scale: float) -> None:
        """What the step turns out to do by itself."""
        if did.updated:
            self._updates_itself = True
        elif did.by_itself and not self._updates_itself:
            self._check_every_call(did, batch, scale)
            self._updates_itself = True
        if self._updates_itself and self.assumes_optimizer:  # none is needed beside its own
            self.assumes_optimizer, self._optimizers, self._rates = False, [], Rates([])
        if self._updates_itself and self._watch is not None:
            self._watch.called()

    def _check_every_call(self, first: Did, batch: Batch, scale: float = 1.0) -> None:
        if under_fake_tensors():  # whose updates cannot all be seen
            return

        def again() -> Did:
            self.forward_backward(batch, scale)
            return self._did

        self._is_asked_again = True
        try:
            check_every_call(first, again)
        finally:
            self._is_asked_again = False

    def _run_backward(self, loss: torch.Tensor, share: float) -> None:
        shared = loss if share == 1.0 else loss * share
        scaled = shared if self._scaler is None else self._scaler.scale(shared)
        with faults.second_backward_named():
            if self._backward is None:
                scaled.backward()
            else:
                self._backward(scaled)

    @property
    def weight(self) -> float:
        """The weight that ``train_step`` returned, over that of the first since ``zero_grad``."""
        return self._weights.last

    def loss_scale(self) -> float:
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    def update(self) -> None:
        if self._updates_itself:
            return
        self._weights.settle(p.grad for p in self._parameters)
        self._updates.run()
        if self._watch is not None:
            self._watch.updated()

    @contextmanager
    def watched(self) -> Iterator[Watch]:
        """What the updates inside do is looked at: ``effect()`` of what this yields tells.

        Costs a pass over parameters and optimizer state at its start and its end.
        """
        with Watch(self._parameters, self._optimizers, self._rates, self._updates) as watch:
            self._watch = watch
            try:
                yield watch
            finally:
                self._watch = None

    def learning_rate(self) -> float | None:
        return self._rates.first() if self._rate_is_known else None

    def base_learning_rate(self) -> float | None:
        return self._rates.base() if self._rate_is_known else None

    def group_rates(self, recommended: float | None = None) -> tuple[GroupRate, ...]:
        return tuple(self._rates.by_group(recommended)) if self._rate_is_known else ()

    def scale_learning_rate(self, factor: float) -> None:
        self._rates.scale(factor)

    def set_learning_rate(self, rate: float) -> None:
        """Give the first group this rate, others their share; the rate then counts as known."""
        self._rates.set(rate)
        self._rate_is_known = True

    def zero_grad(self) -> None:
        self._weights.start()
        for module in self._modules:
            module.zero_grad(set_to_none=True)
        for parameter in self._parameters:
            parameter.grad = None

    def prime(self) -> None:
        """Lay out the optimizers' state by one step of zero gradients at rate zero.

        Weights stay as they are. Where there is state already, nothing is done. A parameter that
        no gradient reaches, as far as is known, gets no state, as it gets none in training.
        """
        bare = [optimizer for optimizer in self._optimizers if not optimizer.state]
        if bare:
            lay_out(bare, self.reached(), self._sparse_dims)
            self.zero_grad()

    def look(self, batch: Batch, *, forward_backward: Callable[[Batch], Any] | None = None) -> None:
        """See which parameters the gradients of ``batch`` reach; state is the caller's to put back.

        A part of a model that is not used, such as a second head, costs neither gradients nor
        optimizer state. A part that only some batches use gets its state in the trials. Of several
        ranks all take the step, by ``forward_backward``.

        Raises:
            InvalidArgument: where the step updates by itself, but not at every call; where
                gradients are sparse and the optimizer that was assumed takes none such.
        """
        self.has_looked = True
        self.zero_grad()
        try:
            (forward_backward or self.forward_backward)(batch)
            if self._updates_itself:
                self._check_every_call(Did(updated=True, ran_backward=True), batch)
        except InvalidArgument:
            raise
        except Exception:  # noqa: BLE001  # whatever it is, the first trial meets it and tells
            return
        reached = [p for p in self._parameters if p.grad is not None]
        sparse = ((p, p.grad) for p in reached if p.grad is not None and p.grad.is_sparse)
        self._sparse_dims = {id(p): gradient.sparse_dim() for p, gradient in sparse}
        refuse_sparse(self._optimizers if self.assumes_optimizer else (), self._sparse_dims)
        if not self._updates_itself:
            self._reached = reached or None

    def reached(self) -> list[torch.nn.Parameter]:
        """The trained parameters that have gradients, as far as is known."""
        return self.parameters() if self._reached is None else list(self._reached)

    def check_loss(self, loss: torch.Tensor) -> None:
        """Raises ``LossIsNotFinite`` for NaN and infinity."""
        faults.refuse_not_finite(loss)
