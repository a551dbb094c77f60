"""Which batch size to evaluate with: memory without gradients, chosen by throughput."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Never

from batchfinder.arguments import check
from batchfinder.caveats import alone_by_mistake
from batchfinder.errors import InvalidArgument, NothingFits
from batchfinder.html import Shown
from batchfinder.keywords import keywords_named, refuse_unknown
from batchfinder.measure import NOTHING_TIMED, Effort, about_timings, measure
from batchfinder.measure.stage import slowest_loading
from batchfinder.probe import Propose, SearchSpace, latest, memory_line, probe
from batchfinder.probe.runner import as_slow_as_any
from batchfinder.progress import default_observer
from batchfinder.protocols import Batch, Observer, Ranks, Setup, TrainStep
from batchfinder.results import Measurement, Trial
from batchfinder.run.batches import Source, source_from
from batchfinder.run.memory import active_limit, backend_for
from batchfinder.run.ranks import OwnPart, Wrapping, joined_for_evaluation, meet
from batchfinder.run.state import preserved
from batchfinder.run.step import EvaluationStep
from batchfinder.run.switches import gradients_on
from batchfinder.run.trial import run_trial
from batchfinder.timing import sizes_worth_measuring
from batchfinder.training import Autocast, Loader, Model, Search, Training, as_list, training_of
from batchfinder.units import format_bytes
from batchfinder.wording import Caveat, summary

__all__ = ["Evaluation", "eval_batch_size"]

_SEARCH = Search()
_CLOSE = 0.95  # of the highest throughput: beyond that a larger batch only costs memory


@dataclass(frozen=True)
class Evaluation(Shown):
    """The recommended batch size for evaluation, with its measurements.

    ``batch_size`` is the smallest measured size within 5% of the highest throughput.
    """

    batch_size: int
    trials: tuple[Trial, ...]
    measurements: tuple[Measurement, ...]
    limit_bytes: int
    unit: str = "samples"
    caveats: tuple[Caveat, ...] = ()

    def __str__(self) -> str:
        return summary.evaluated(
            [
                (
                    each.batch_size,
                    each.samples_per_second,
                    each.samples_per_second_low,
                    each.samples_per_second_high,
                    each.peak_bytes,
                )
                for each in self.measurements
            ],
            chosen=self.batch_size,
            largest=self.max_batch_size,
            limit_bytes=self.limit_bytes,
            unit=self.unit,
            caveats=self.caveats,
        )

    @property
    def max_batch_size(self) -> int:
        """The largest batch that was run and fitted, at its last trial; 0 if none did."""
        return max((trial.batch_size for trial in latest(self.trials) if trial.fits), default=0)


@keywords_named
def eval_batch_size(
    model: Model | Training,
    loader: Loader | None = None,
    *,
    eval_step: Callable[[Any, Batch], Any] | None = None,
    autocast: Autocast | None = None,
    memory_limit: int | str | None = None,
    headroom: float = 0.05,
    at_most: int | None = None,
    at_least: int | None = None,
    multiple_of: int = 1,
    powers_of_two: bool = False,
    search: Search = _SEARCH,
    budget_seconds: float = 8.0,
    seed: int = 0,
    observe: Observer | None = None,
    **unknown: Never,
) -> Evaluation:
    """Recommend a batch size for evaluating a model.

    Runs forward passes without gradients, in evaluation mode. The result is independent of the
    training batch size. The model, random generators and loader are restored.

    What you evaluate:
        model: the module to evaluate; a list or dict of modules with ``eval_step``; or a
            ``Training``, whose model, loader and data options are used.
        loader: the ``DataLoader`` of the evaluation (never modified), or a dataset.
        eval_step: ``(model, batch) -> anything``. Default: the model is called with the batch
            without its target.
        autocast: as in the real evaluation: a dtype, ``True``, or a function that returns a
            context.

    Your limits:
        memory_limit: bytes, or text such as ``"512MiB"``. Default: the free memory of the device.
        headroom: fraction of the limit that the recommended size leaves free.
        at_most: upper bound on the batch size, not exceeded in trials either.
        at_least: lower bound; no smaller size is tried.
        multiple_of: only multiples of this are tried.
        powers_of_two: only powers of two are tried.

    How it runs:
        search: options for finding the largest size; ``isolate`` and ``cache`` of ``Search`` apply
            to training only.
        budget_seconds: soft limit on the timing, not including the search.
        seed: seed of the samples drawn.
        observe: called with every event. Default: prints progress to stderr.

    Raises:
        InvalidArgument: if a value is invalid.
        RanksNotTogether, PeerFailed: if ranks diverge or another rank fails.
        NothingFits: if not even the smallest batch fits.
        CannotBuildBatch: if no batch of another size can be built from the loader.
    """
    refuse_unknown(eval_batch_size, unknown)
    check(
        "eval_batch_size",
        headroom=headroom,
        at_most=at_most,
        at_least=at_least,
        multiple_of=multiple_of,
        budget_seconds=budget_seconds,
        memory_limit=memory_limit,
    )
    if search.isolate is not None or search.cache is not None:
        raise InvalidArgument(
            "eval_batch_size: expected a Search without isolate= and cache=, which apply to "
            "training; found one with them"
        )
    training = training_of(model, loader, autocast=autocast)
    met, wrapping = meet(
        training.ranks,
        as_list(training.model),
        "eval_batch_size",
        reaching=[eval_step],
        sizes=(at_most, at_least, multiple_of, powers_of_two, headroom),
        budget_seconds=budget_seconds,
        seed=seed,
    )
    with _workplace(
        EvaluationStep(training.model, eval_step, training.autocast),
        lambda: source_from(
            training.loader,
            make_loader=training.make_loader,
            batch_dim=training.batch_dim,
            seed=seed,
            part=OwnPart(met),
        ),
        memory_limit,
        kept=training.kept(),
        loader=training.loader,
        ranks=met,
        wrapping=wrapping,
    ) as place:
        space = SearchSpace(
            ceiling=min((n for n in (at_most, place.setup.source.ceiling) if n), default=None),
            floor=at_least or 1,
            limit_bytes=place.setup.memory.limit_bytes(),
            resolution=search.resolution,
            multiple_of=multiple_of,
            powers_of_two=powers_of_two,
        )
        return place.evaluate(
            space,
            headroom,
            search.propose,
            Effort(budget_seconds=budget_seconds),
            observe or default_observer(),
        )


@dataclass(frozen=True)
class _Place:
    """The evaluation step, its batches and the device's memory."""

    setup: Setup[TrainStep]

    def evaluate(
        self,
        space: SearchSpace,
        headroom: float,
        propose: Propose,
        effort: Effort,
        observe: Observer,
    ) -> Evaluation:
        ranks = self.setup.step.ranks
        trials = probe(self._trial, space, propose=propose, observe=observe)
        if not any(trial.fits for trial in latest(trials)):
            tried = min(trials, key=lambda trial: trial.batch_size)
            raise NothingFits(
                f"not even a batch of {tried.batch_size} fits for evaluation: it "
                f"{tried.outcome.words}; the limit is "
                f"{format_bytes(self.setup.memory.limit_bytes())}. Try lower precision (autocast=),"
                " a smaller input or a smaller model."
            )
        said: list[Caveat] = []
        timed = measure(
            self.setup,
            _sizes(trials, space, headroom),
            effort=effort,
            clock=ranks.clock,
            allowed=space.allows,
            say=said.append,
            loading=slowest_loading(ranks, time.perf_counter),
        )
        if not timed:
            raise NothingFits(NOTHING_TIMED)
        for each in timed:
            observe(each)
        found = Evaluation(
            _chosen(timed),
            trials,
            timed,
            limit_bytes=self.setup.memory.limit_bytes(),
            unit=self.setup.source.unit,
            caveats=(*self.setup.source.notes, *said, *about_timings(timed), *alone_by_mistake()),
        )
        return ranks.tell("the result", found)[0]

    def _trial(self, size: int) -> Trial:
        self.setup.step.ranks.tell(f"a trial of {size}", None)
        return as_slow_as_any(self.setup.step.ranks, run_trial(self.setup, size))


@contextmanager
def _workplace(
    step: EvaluationStep,
    make_source: Callable[[], Source],
    limit: int | str | None,
    *,
    kept: Sequence[Any],
    loader: Any,
    ranks: Ranks,
    wrapping: Wrapping,
) -> Iterator[_Place]:
    """Everything put back on the way out; an enclosing memory limit taken as the limit."""
    with ExitStack() as stack:
        stack.enter_context(gradients_on())
        outer = active_limit() if limit is None else None
        stack.enter_context(outer.paused() if outer is not None else nullcontext())
        stack.enter_context(preserved(*kept, loader=loader))
        with ranks.together("setting up"):
            source = make_source()
            stack.callback(source.close)
            memory = outer if outer is not None else backend_for(step.device, limit)
        stack.enter_context(step.evaluation_mode())
        try:
            setup: Setup[TrainStep] = Setup(step, source, memory)
            yield _Place(joined_for_evaluation(setup, ranks, wrapping))
        except BaseException as error:
            ranks.left_with(error)
            raise


def _sizes(trials: Sequence[Trial], space: SearchSpace, headroom: float) -> list[int]:
    """The sizes worth timing: those that leave the headroom free, by the memory line."""
    fitting = [trial.batch_size for trial in latest(trials) if trial.fits]
    inside = max(fitting)
    line = memory_line(trials)
    if space.limit_bytes is not None and line.per_sample_bytes > 0:
        room = (1 - headroom) * space.limit_bytes - line.fixed_bytes
        inside = max(min(fitting), min(inside, int(room / line.per_sample_bytes)))
    allowed = {space.at_most(size) for size in sizes_worth_measuring(inside)}
    return sorted(size for size in allowed if min(fitting) <= size <= inside)


def _chosen(timed: Sequence[Measurement]) -> int:
    """The smallest size whose throughput is within 5% of the highest.

    Of each size the lower end of its interval counts, so that one lucky timing decides nothing.
    """
    best = max(each.samples_per_second_low for each in timed)
    return min(each.batch_size for each in timed if each.samples_per_second_low >= _CLOSE * best)
