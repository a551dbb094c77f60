"""TrainingMonitor: the noise scale and the stability of a training, while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch

from batchfinder.errors import InvalidArgument
from batchfinder.keywords import options_named
from batchfinder.model_checks import check_model
from batchfinder.monitor.alarms import TOGETHER, Alarms
from batchfinder.monitor.checks import check_callable, check_count, optimizers_of, trainable_in
from batchfinder.monitor.gradients import GradientLook, Look, Scaler
from batchfinder.monitor.history import History, Instability, Reading, Suggestion
from batchfinder.monitor.noise import FEWEST_LOOKS, NoiseWindow
from batchfinder.monitor.pace import UPDATES, Ordinary, Pace
from batchfinder.monitor.parts import WHOLE
from batchfinder.monitor.pricing import Now, Suggestions
from batchfinder.monitor.ranks import ALONE, AllGather, Exchange, is_sharded
from batchfinder.monitor.updates import Weights
from batchfinder.protocols import Batch
from batchfinder.results import Candidate, NoiseScale
from batchfinder.run.step import family_of
from batchfinder.run.torch_internals.objects import BATCH_NORMS
from batchfinder.wording import Caveat

__all__ = ["Told", "TrainingMonitor"]

Told: TypeAlias = Instability | Suggestion
"""What an observer is called with."""

_ROWS = (list, tuple)


@options_named
class TrainingMonitor:
    """Watches a training: the gradient noise scale, and instability as it begins.

    For example::

        monitor = TrainingMonitor(model, optimizer, batch_size=64, observe=print)
        for batch in loader:
            optimizer.zero_grad()
            for part, share in monitor.parts(batch):     # the batch; its halves at a look
                loss = loss_fn(model(part[0]), part[1])
                (share * loss).backward()
            optimizer.step()
            monitor.step(loss)

    At some steps it looks at the gradients of the micro-batches of that step: those that the
    training accumulates anyway, those of the ranks of ``DistributedDataParallel``, or the two
    halves of the batch that :meth:`parts` hands out; and at the three updates from there on. At
    all other steps only the loss is kept: on a GPU it is copied there, and fetched with others
    without waiting for the device. Gradients are read by hooks, before clipping.

    Args:
        model: the module that is called in the training (compiled or wrapped, where it is).
        optimizer: the optimizer, or several.
        batch_size: samples per optimizer step and device. May be assigned anew when it changes;
            batches that come through ``parts`` are counted. They are cut along their rows once one
            had so many: else rows may well be time.
        every: optimizer steps from one look to the next. By default the first eight come 47
            steps apart, later ones 251, and after step 8,032 a 32nd of all steps, at most 1,009.
        observe: called with every :class:`Instability` and :class:`Suggestion` as they come.
        grad_scaler: the ``GradScaler``, where one is used.
        window: looks that one noise scale is pooled over at most: the last ones over which the
            square of the gradient stayed within a factor of two, and eight at least.
        dataset_size: samples in the training set, where it is seen more than once: the noise
            scale then refers to this set and not to the population that it was drawn from.
        split_batch_norm: cut batches in two although the model has BatchNorm.
        candidates: of a report, whose step times price suggestions.
        ranks: how ranks share what they see; by default over ``torch.distributed`` where the model
            is a ``DistributedDataParallel``.

    Raises:
        InvalidArgument: where an argument cannot be meant (a ``window`` of fewer than 8 looks gives
            no noise scale), or the optimizer holds nothing to train.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        *,
        batch_size: int,
        every: int | None = None,
        observe: Callable[[Told], Any] | None = None,
        grad_scaler: Scaler | None = None,
        window: int = 40,
        dataset_size: int | None = None,
        split_batch_norm: bool = False,
        candidates: Sequence[Candidate] = (),
        ranks: Exchange | None = None,
    ) -> None:
        check_model([model])
        self._optimizers = optimizers_of(optimizer)
        check_count("batch_size", batch_size, 1)
        check_count("window", window, FEWEST_LOOKS)
        if every is not None:
            check_count("every", every, 1)
        if dataset_size is not None:
            check_count("dataset_size", dataset_size, 2)
        if observe is not None:
            check_callable("observe", observe)
        self.batch_size = batch_size
        self.every = every
        self.rate_factor = 1.0
        """What updates multiply the optimizer's learning rate by, beyond its own knowledge."""
        self.noise_scale: NoiseScale | None = None
        """The noise scale over the last looks; ``None`` before there are eight."""
        self.steps = self.samples = 0
        self.observe = observe
        self._overflows = grad_scaler is not None
        self._suggestions = Suggestions(candidates, family_of(self._optimizers))
        if ranks is None:
            wrapped = isinstance(model, torch.nn.parallel.DistributedDataParallel)
            ranks = AllGather() if wrapped else ALONE
        self._usual = Ordinary()
        self._gradients = GradientLook(
            model,
            self._optimizers,
            NoiseWindow(window, dataset_size, ranks),
            self._usual,
            scaler=grad_scaler,
            split=split_batch_norm
            or not any(isinstance(part, BATCH_NORMS) for part in model.modules()),
        )
        self._pace = Pace(every)
        self._alarms = Alarms(self._tell, self._pace, self._usual)
        self._weights = Weights()
        self._readings: list[Reading] = []
        self._look, self._closer_until, self._ordinary_until = Look(), 0, 0
        """Until here only losses are taken, unless one of them gives reason for more."""
        self._look_at = 0 if self._pace.updates > 1 else self._pace.usual
        """The step of the look under way or next; 0 stands for the first updates alone."""
        if not trainable_in(self._optimizers):
            raise InvalidArgument("expected an optimizer with parameters to train; found none")
        self._sharded = is_sharded(trainable_in(self._optimizers))
        if self._sharded:
            self._look_at = self._pace.usual
            self._gradients.caveats["monitor.sharded"] = Caveat("monitor.sharded")
        self._prepare_next()

    def parts(self, batch: Batch, *, at_least: int = 1) -> Iterator[tuple[Batch, float]]:
        """The batch as (part, share) pairs: itself with 1.0, or at a look its two halves.

        Do forward and backward with ``share * loss``, for a loss that is a mean over samples. In
        this order nothing is multiplied where the batch is whole: ``share`` is then a 1.0 that
        gives the loss itself. ``at_least`` cuts the batch into so many at every step, along the
        first dimension of its tensors and only where every one of them has the samples there.
        """
        usual = self._usual
        first = batch[0] if type(batch) in _ROWS and batch else None
        rows = first.shape[0] if type(first) is torch.Tensor and first.ndim else None
        if rows == self.batch_size and at_least == 1 and not usual.looking:
            usual.rows_are_samples = True
            usual.samples += rows
            usual.passes += 1
            return iter(((batch, WHOLE),))
        return self._gradients.parts(batch, at_least, self.batch_size)

    def took(self, samples: int) -> None:
        """Call after each backward pass, where the loop is not yours and ``parts`` has no place.

        Two or more in one optimizer step, of a mean loss divided by their number, give a noise
        scale; one alone does not.
        """
        self._gradients.took(samples)

    def step(self, loss: torch.Tensor | float | None) -> None:
        """Call once after every optimizer step, with its loss (that of the last part will do).

        ``None`` where the loss cannot be had: the rest is watched all the same.
        """
        usual = self._usual
        self.steps = step = self.steps + 1
        number: Any = loss
        if type(loss) is torch.Tensor and loss.is_cpu and not loss.ndim:
            number = loss.tolist()
        if step < usual.until and type(number) is float and -math.inf < number <= usual.up_to:
            usual.losses.append((step, number, False))
            self.samples += usual.step_ended(self.batch_size)
            return
        judged = loss is not None and self._alarms.take_loss(step, number, self._gradients.cut)
        samples = usual.step_ended(self.batch_size)
        self.samples += samples
        if judged or step >= self._ordinary_until:
            self._look_closer(step, samples)
        usual.until = min(self._ordinary_until, step + TOGETHER - len(usual.losses))

    def _look_closer(self, step: int, samples: int) -> None:
        """What is due after a step that is not ordinary."""
        look = self._gradients.look(step, samples)
        if look is not None:
            self._look = look
            self.noise_scale = look.noise_scale
            if not self._overflows:
                self._alarms.take_gradients(step, look)
        if self._sharded:
            if step % self._pace.usual == 0:
                self._conclude(samples)
            return
        if step >= self._look_at or step <= self._closer_until:
            self._weights.note(step, trainable_in(self._optimizers))
        if step == self._look_at + self._pace.updates - 1:
            self._conclude(samples)
            self._look_at = self._pace.after(self._look_at)
        elif step == self._closer_until:
            self._alarms.take_movement(step, self._weights.movement(), self._rate())
        self._prepare_next()
        more = step < self._closer_until or self._alarms.suspicious
        self._ordinary_until = step + 1 if more else max(step + 1, self._look_at - 1)

    @property
    def events(self) -> tuple[Instability, ...]:
        """The instabilities so far, each once per episode."""
        return tuple(self._alarms.told)

    @property
    def suggestions(self) -> tuple[Suggestion, ...]:
        """The suggestions so far."""
        return tuple(self._suggestions.made)

    @property
    def last_reading(self) -> Reading | None:
        """What the last look saw; ``None`` before the first. It is made in the look's last step."""
        return self._readings[-1] if self._readings else None

    @property
    def history(self) -> History:
        """Everything seen so far, as data; ``to_json`` and ``from_json`` keep it."""
        return History(tuple(self._readings), self.events, self.suggestions)

    @property
    def caveats(self) -> tuple[Caveat, ...]:
        """What could not be measured, and why."""
        return tuple(self._gradients.caveats.values())

    def plot(self) -> Any:
        """``history.plot()``: noise scale, loss, gradient norm and batch size over samples."""
        return self.history.plot()

    def close(self) -> None:
        """Remove the hooks of a look that has begun. Nothing else is left on the model."""
        self._gradients.stop()

    def _conclude(self, samples: int) -> None:
        """A reading from the look that ends here."""
        self._alarms.read_losses()
        moved = self._weights.movement()
        self._alarms.take_movement(self.steps, moved, self._rate())
        if self._look_at == 0:
            return  # the first updates, before the first look at gradients
        look, self._look = self._look, Look()
        self._readings.append(
            Reading(
                step=self.steps,
                samples=self.samples,
                batch_size=samples,
                learning_rate=self._rate(),
                loss=self._alarms.mean_loss(),
                gradient_norm=look.gradient_norm,
                update_ratio=moved.ratio,
                update_cosine=moved.cosine,
                gradient_squared=look.moments.gradient_squared if look.moments else math.nan,
                noise_trace=look.moments.noise_trace if look.moments else math.nan,
                noise_scale=look.noise_scale,
            )
        )
        if self.noise_scale is not None:
            now = Now(self.steps, samples, self._rate(), self.noise_scale)
            if (found := self._suggestions.at(now)) is not None:
                self._tell(found)

    def _prepare_next(self) -> None:
        """Before the next step: hooks where it is looked at, and a closer look where it is due."""
        step = self.steps
        if self._sharded:
            return
        is_due = step + 1 == self._look_at
        if is_due:
            self._gradients.start(trainable_in(self._optimizers))
        elif step < self._look_at and step > self._closer_until:
            if not self._alarms.wants_closer_look(step):
                return
            self._closer_until = step + UPDATES
        if not self._weights.noted(step):
            self._weights.note(step, trainable_in(self._optimizers))

    def _rate(self) -> float:
        return float(self._optimizers[0].param_groups[0]["lr"]) * self.rate_factor

    def _tell(self, told: Told) -> None:
        if self.observe is not None:
            self.observe(told)
