"""One training step of the user's, cut where accumulation cuts it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from batchfinder.errors import DeviceMismatch, LossIsNotFinite, NothingToTrain, UnknownLoss
from batchfinder.protocols import Batch
from batchfinder.run.step.compiled import Compilation
from batchfinder.run.step.move import moved
from batchfinder.run.step.optimizers import (
    family_of,
    group_rates,
    name_of,
    set_rate,
    state_tensors,
    still,
)
from batchfinder.run.step.precision import Context, precision_of, scaler_caveat

__all__ = ["Step"]

Compute = Callable[[Batch], torch.Tensor | float | None]
"""A batch on the device -> the loss; ``None`` or a float where it did backward and update."""


class Step:
    """A ``TrainStep``: what computes the loss, what updates, and in which precision.

    Built by ``step_from``; ``assumptions`` says what was inferred on the way.
    """

    def __init__(
        self,
        compute: Compute,
        modules: Sequence[torch.nn.Module],
        parameters: Sequence[torch.nn.Parameter],
        optimizers: Sequence[Any],
        *,
        device: torch.device,
        context: Context,
        scaler: Any = None,
        rate_is_known: bool = True,
        assumptions: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._compute = compute
        self._modules = list(modules)
        self._parameters = list(parameters)
        self._optimizers = list(optimizers)
        self._device = device
        self._context = context
        self._scaler = scaler
        self._rate_is_known = rate_is_known
        self._assumed = assumptions
        self._updates_itself = False
        self.has_looked = False
        self._reached: list[torch.nn.Parameter] | None = None
        self._compilation = Compilation(self._modules)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def updates_itself(self) -> bool:
        """Known after the first ``forward_backward``."""
        return self._updates_itself

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What was inferred, as sentences; complete after the first ``forward_backward``."""
        own = (
            ("The step does its own backward and update: accumulation cannot be measured.",)
            if self._updates_itself
            else ()
        )
        caveat = scaler_caveat(self._context, self._device, self._scaler)
        return (*self._assumed(), *own, *caveat, *self._compilation.notes)

    @property
    def optimizer_name(self) -> str:
        return name_of(self._optimizers)

    @property
    def optimizer_family(self) -> str:
        return family_of(self._optimizers)

    @property
    def precision(self) -> str:
        return precision_of(self._parameters, self._context, self._device, self._scaler)

    def modules(self) -> list[torch.nn.Module]:
        """The model's modules, and the loss where it is one."""
        return list(self._modules)

    def optimizers(self) -> list[Any]:
        return list(self._optimizers)

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self._parameters)

    def holdings(self) -> Iterator[torch.Tensor]:
        seen: set[int] = set()
        for tensor in self._held():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor

    def _held(self) -> Iterator[torch.Tensor]:
        for module in self._modules:
            yield from module.buffers()
            yield from module.parameters()
        yield from self._parameters
        every = [p for module in self._modules for p in module.parameters()]
        yield from (p.grad for p in [*every, *self._parameters] if p.grad is not None)
        yield from state_tensors(self._optimizers)

    def forward_backward(self, batch: Batch, scale: float = 1.0) -> torch.Tensor:
        """The detached loss; raises ``UnknownLoss`` or ``NothingToTrain`` where there is none."""
        on_device = moved(batch, self._device)
        versions = self._versions()
        with self._compilation.apart():
            with self._context(), _devices_named():
                loss = self._compute(on_device)
            if isinstance(loss, torch.Tensor) and loss.requires_grad:
                if self._versions() != versions:  # it has updated, and returns the loss to be seen
                    self._updates_itself = True
                    return loss.detach()
                scaled = loss if scale == 1.0 else loss * scale
                with _second_backward_named():
                    (scaled if self._scaler is None else self._scaler.scale(scaled)).backward()
                return loss.detach()
        return self._without_graph(loss, versions)

    def _without_graph(self, loss: torch.Tensor | float | None, before: list[int]) -> torch.Tensor:
        """The loss of a step that updated by itself."""
        if isinstance(loss, torch.Tensor):
            return self._detached(loss, before)
        self._updates_itself = True
        return torch.tensor(math.nan if loss is None else loss)

    def _detached(self, loss: torch.Tensor, versions: list[int]) -> torch.Tensor:
        if self._versions() != versions:
            self._updates_itself = True
            return loss.detach()
        if any(p.grad is not None for p in self._parameters):
            raise UnknownLoss(
                "expected a loss with its graph, or a step that also updates; found one that ran "
                "backward and no update: return the loss before backward, or update and return "
                "None"
            )
        raise NothingToTrain(
            "expected a loss that depends on a trained parameter; found one without a graph: "
            "look for detach(), no_grad() or .item() on the way, or for frozen parameters"
        )

    def _versions(self) -> list[int]:
        return [parameter._version for parameter in self._parameters]

    def loss_scale(self) -> float:
        return 1.0 if self._scaler is None else float(self._scaler.get_scale())

    def update(self) -> None:
        if self._updates_itself:
            return
        for optimizer in self._optimizers:
            if self._scaler is None:
                optimizer.step()
            elif any(p.grad is not None for g in optimizer.param_groups for p in g["params"]):
                self._scaler.step(optimizer)
        if self._scaler is not None:
            self._scaler.update()

    def learning_rate(self) -> float | None:
        if not self._rate_is_known:
            return None
        return next((float(group["lr"]) for group in group_rates(self._optimizers)), None)

    def scale_learning_rate(self, factor: float) -> None:
        for group in group_rates(self._optimizers):
            set_rate(group, float(group["lr"]) * factor)

    def set_learning_rate(self, rate: float) -> None:
        """Give the first group this rate, and every other one the same share of it as before.

        From here on the rate counts as known.
        """
        first = next((float(group["lr"]) for group in group_rates(self._optimizers)), None)
        for group in group_rates(self._optimizers):
            set_rate(group, rate * float(group["lr"]) / first if first else rate)
        self._rate_is_known = True

    def zero_grad(self) -> None:
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
        if not bare:
            return
        for parameter in self.reached():
            parameter.grad = torch.zeros_like(parameter)
        with still(bare):
            for optimizer in bare:
                optimizer.step()
        self.zero_grad()

    def look(self, batch: Batch) -> None:
        """See which parameters the gradients of ``batch`` reach; state is the caller's to put back.

        A part of a model that is not used, such as a second head, costs neither gradients nor
        optimizer state. A part that only some batches use gets its state in the trials.
        """
        self.has_looked = True
        self.zero_grad()
        try:
            self.forward_backward(batch)
        except Exception:  # noqa: BLE001  # whatever it is, the first trial meets it and tells
            return
        reached = [p for p in self._parameters if p.grad is not None]
        if not self._updates_itself:
            self._reached = reached or None

    def reached(self) -> list[torch.nn.Parameter]:
        """The trained parameters that have gradients, as far as is known."""
        return self.parameters() if self._reached is None else list(self._reached)

    @contextmanager
    def training_mode(self) -> Iterator[None]:
        """Models in evaluation mode put into training mode, and every module's mode put back.

        A model in training mode is left as it is: parts of it may be in evaluation mode on
        purpose.
        """
        modes = [(each, each.training) for top in self._modules for each in top.modules()]
        try:
            for top in self._modules:
                if not top.training:
                    top.train()
            yield
        finally:
            for module, training in modes:
                module.training = training

    def check_loss(self, loss: torch.Tensor) -> None:
        """Refuse a loss that is no number.

        Raises:
            LossIsNotFinite: for NaN and infinity.
        """
        if not bool(torch.isfinite(loss)):
            raise LossIsNotFinite(
                f"expected a finite loss; found {float(loss)}: check the data and the learning "
                "rate, and train a few steps by hand first"
            )


@contextmanager
def _devices_named() -> Iterator[None]:
    """Torch's own error on tensors of two devices, as ours with the way out."""
    try:
        yield
    except RuntimeError as error:
        if "Expected all tensors to be on the same device" not in str(error):
            raise
        raise DeviceMismatch(
            "expected model, loss and batch on one device; torch says: "
            f"{str(error).splitlines()[0]} — move the model and the loss to one device before "
            "the call, or move the batch inside train_step"
        ) from error


@contextmanager
def _second_backward_named() -> Iterator[None]:
    """Torch's advice to retain the graph misleads where the user's step ran backward itself."""
    try:
        yield
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        raise UnknownLoss(
            "expected a loss on which backward has not run; found one on which it has. Let "
            "train_step return the loss before backward and leave backward and update to us, or "
            "let it do all of it and return None or loss.detach()"
        ) from error
