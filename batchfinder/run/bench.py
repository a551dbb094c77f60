"""The workbench: the user's model, loader and optimizer, set up once for every stage.

Opened as a context: what the user handed in is snapshotted first, before anything draws a random
number or runs a forward pass, and is put back on the way out.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from batchfinder.probe import SearchSpace, held_bytes
from batchfinder.protocols import BatchSource, MemoryBackend, Ranks, Setup, WholeStep
from batchfinder.results import Environment, MemoryBreakdown
from batchfinder.run.attempt import YOUNG, recover
from batchfinder.run.batches import source_from
from batchfinder.run.memory import active_limit, backend_for
from batchfinder.run.randomness import seed_everything
from batchfinder.run.ranks import ALONE, OwnPart, Wrapping, joined
from batchfinder.run.state import Snapshot, preserved
from batchfinder.run.step import state_tensors, step_of
from batchfinder.run.switches import gradients_on
from batchfinder.run.torch_internals.objects import BATCH_NORMS
from batchfinder.run.torch_internals.tensors import dense_parts
from batchfinder.training import Training, as_list
from batchfinder.wording import Caveat

__all__ = ["Bench", "open_bench"]

_ANY_SIZE = SearchSpace()
_BARE = Wrapping()


@dataclass(frozen=True)
class Bench:
    """The training step, its batches, the device's memory, and the way back."""

    setup: Setup[WholeStep]
    snapshot: Snapshot
    own: Snapshot
    seed: int
    functions: tuple[Any, ...] = ()
    """The user's loss and step, on whose code the memory depends."""
    memory_limit: int | str | None = None
    """The limit as the user gave it."""
    has_own_optimizer: bool = True
    """Whether the user handed in an optimizer, whose rate is then the user's."""
    is_mid_training: bool = False
    """Whether that optimizer has taken steps already."""
    space: SearchSpace = _ANY_SIZE
    """The sizes that the user allows."""
    own_limit_bytes: int = 0
    """The memory limit of this rank; ``memory`` has the smallest one of all ranks."""
    rooms: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """What each of several ranks had left, in order of rank, by the peak that they agreed on."""

    @property
    def step(self) -> WholeStep:
        return self.setup.step

    @property
    def source(self) -> BatchSource:
        return self.setup.source

    @property
    def memory(self) -> MemoryBackend:
        return self.setup.memory

    @property
    def sizes(self) -> SearchSpace:
        """The sizes that may reach the step: allowed, large enough for it, and in the data set."""
        ceilings = (self.space.ceiling, self.source.ceiling)
        return replace(
            self.space,
            floor=max(self.space.floor, self._smallest()),
            ceiling=min((each for each in ceilings if each is not None), default=None),
        )

    def fresh(self) -> None:
        """Everything as the user left it, and the optimizer's state laid out.

        The state is created here, before any trial, so that no trial is special.
        """
        self.training()
        if not self.step.has_looked:  # with a batch as small as the first trial's
            self.step.look(self.source.take(self.sizes.smallest))
            recover(self.step, self.memory, generation=YOUNG)
            self.training()
        self.step.prime()

    def _smallest(self) -> int:
        """2 where a batch norm in training mode needs two samples for a variance, else 1.

        One that the step reaches through its closure, such as a teacher's, may be run too.
        """
        needs_two = any(
            isinstance(each, BATCH_NORMS) and each.training for each in self.snapshot.modules()
        )
        return max(self.source.smallest, 2 if needs_two and self.source.ceiling != 1 else 1)

    def start_over(self) -> None:
        """What earlier batches left for the next as the user left it: sizes do not mix then."""
        self.snapshot.restore_carried()

    def training(self) -> None:
        """Everything as the user left it, in training mode: a start for real training steps.

        A model in training mode stays as it is, since parts of it may be in evaluation mode on
        purpose; one in evaluation mode was only left so by an earlier evaluation.
        """
        self.snapshot.restore()
        self.own.restore()
        seed_everything(self.seed)
        for module in self.step.modules():
            if not module.training:
                module.train()

    def set_learning_rate(self, rate: float | None) -> None:
        """Train at ``rate``: every group's is scaled as the first one's, until put back."""
        if rate is not None:
            self.step.set_learning_rate(rate)

    def breakdown(self) -> MemoryBreakdown:
        """The bytes held between steps. What a batch adds is for the trials to say."""
        trained = {id(parameter) for parameter in self.step.reached()}
        parameters = _each_once(p for module in self.step.modules() for p in module.parameters())
        buffers = _each_once(b for module in self.step.modules() for b in module.buffers())
        states = _each_once(state_tensors(self.step.optimizers()))
        own = MemoryBreakdown(
            parameter_bytes=_bytes_of(parameters),
            buffer_bytes=_bytes_of(buffers),
            gradient_bytes=sum(
                part.numel() * part.element_size()
                for p in parameters
                if id(p) in trained
                for part in dense_parts(p)
            ),
            optimizer_bytes=_bytes_of(states),
            other_bytes=0,
            limit_bytes=self.memory.limit_bytes(),
            non_torch_bytes=self.memory.non_torch_bytes(),
            other_processes_bytes=self.memory.other_processes_bytes(),
        )
        return max(self.step.ranks.tell("what is held", own), key=held_bytes)

    def assumptions(self) -> tuple[Caveat, ...]:
        """What had to be inferred from the model and the loader."""
        is_counted = self.memory.is_simulated or self.step.device.type == "cpu"
        said = (Caveat("step.counted_uncompiled"),) if is_counted and self.step.is_compiled else ()
        left = self.snapshot.left()
        stays = [Caveat("step.left", names=left)] if left else []
        if counted := self.snapshot.left_in_data():
            stays.append(Caveat("batches.left", names=counted))
        return (*self.step.assumptions, *said, *self.source.notes, *stays)

    def environment(self) -> Environment:
        """Where the figures come from."""
        return Environment(
            device=str(self.step.device),
            device_name=self.memory.name,
            torch=torch.__version__,
            python=platform.python_version(),
            platform=platform.platform(terse=True),
            threads=torch.get_num_threads(),
            optimizer=self.step.optimizer_name,
            precision=self.step.precision,
            extra=self.step.settings,
        )


@contextmanager
def open_bench(
    training: Training,
    *,
    space: SearchSpace = _ANY_SIZE,
    memory_limit: int | str | None = None,
    base_learning_rate: float | None = None,
    seed: int = 0,
    patience_seconds: float | None = None,
    seconds_left: Callable[[], float] = lambda: math.inf,
    on_read: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
    wrapping: Wrapping = _BARE,
) -> Iterator[Bench]:
    """Snapshot, build, and put back at the end.

    Args:
        training: what is trained, checked.
        space: the sizes that may reach the step.
        memory_limit: bytes, or text such as "8GB".
        base_learning_rate: the assumed optimizer's, where none was given.
        seed: of every random number drawn.
        patience_seconds: how long samples may be looked at before the first trial, softly.
        seconds_left: of the whole call; no samples are read once it is 0.
        on_read: called with the samples read so far and those under way, after every read.
        ranks: who searches together.
        wrapping: how the model is distributed over them.

    Raises:
        InvalidArgument: where an object cannot be kept.
        CannotBuildBatch: where the loader gives no batch of another size.
        UnknownLoss: where no scalar loss can be found.
        NothingToTrain: where no parameter would be trained.
    """
    with ExitStack() as stack:
        stack.enter_context(gradients_on())
        outer = active_limit() if memory_limit is None else None
        stack.enter_context(outer.paused() if outer is not None else nullcontext())
        snapshot = stack.enter_context(
            preserved(
                *training.kept(),
                loader=training.loader,
                reaching=[
                    training.model,
                    training.train_step,
                    training.loss_fn,
                    training.backward,
                    training.clip,
                    *as_list(training.optimizer),
                ],
            )
        )
        seed += ranks.rank * ranks.replicas // ranks.size  # the noise of each replica's is its own
        seed_everything(seed)
        step: WholeStep
        source: BatchSource
        memory: MemoryBackend
        with ranks.together("setting up"):
            source = source_from(
                training.loader,
                make_loader=training.make_loader,
                batch_dim=training.batch_dim,
                count=training.count,
                seed=seed,
                patience_seconds=patience_seconds,
                seconds_left=seconds_left,
                on_read=on_read,
                part=OwnPart(ranks),
            )
            stack.callback(source.close)
            step = step_of(
                training,
                sample_batch=source.take(min(2, source.ceiling or 2)),
                base_learning_rate=base_learning_rate,
            )
            if outer is not None and outer.device.type == step.device.type:
                memory = outer
            else:
                memory = backend_for(step.device, memory_limit, held=list(step.holdings()))
        own_limit = memory.limit_bytes()
        rooms: dict[int, tuple[int, ...]] = {}
        setup = joined(Setup(step, source, memory), ranks, wrapping, rooms=rooms)
        given = as_list(training.optimizer)
        ours = [each for each in setup.step.optimizers() if not any(each is one for one in given)]
        own = stack.enter_context(preserved(*ours, parameters=False))  # the model's own
        yield Bench(
            setup,
            snapshot,
            own,
            seed=seed,
            space=space,
            functions=(training.loss_fn, training.train_step),
            memory_limit=memory_limit,
            own_limit_bytes=own_limit,
            rooms=rooms,
            has_own_optimizer=bool(given),
            is_mid_training=any(getattr(each, "state", None) for each in given),
        )


def _each_once(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages behind ``tensors``, a shared one counted once."""
    parts = (part for tensor in tensors for part in dense_parts(tensor))
    storages = {part.untyped_storage().data_ptr(): part for part in parts}
    return sum(part.untyped_storage().nbytes() for part in storages.values())
