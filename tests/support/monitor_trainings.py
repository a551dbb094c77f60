"""Trainings to watch: healthy ones of many kinds, and ones that are made to go wrong.

Each is made from a seed, with everything small enough for hundreds of steps in a few seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from batchfinder.monitor import Kind, TrainingMonitor

Batch = tuple[Tensor, ...]
BREAKS_AT = 417
"""Between two looks, as most things go wrong."""


@dataclass
class Course:
    """One training under way: what the loop needs, and what is done before each step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    stream: Iterator[Batch]
    loss: Callable[[nn.Module, Batch], Tensor]
    before_step: Callable[[int], None] = lambda step: None
    before_update: Callable[[int], None] = lambda step: None


@dataclass(frozen=True)
class Training:
    name: str
    make: Callable[[int], Course]
    expected: Kind | None = None
    breaks_at: int = 0


@dataclass
class Outcome:
    losses: list[float] = field(default_factory=list)
    monitor: TrainingMonitor | None = None
    told: list[tuple[int, Kind]] = field(default_factory=list)
    """What the observer was told, and after which step."""

    def collapse(self, breaks_at: int = 0) -> int | None:
        """The first step of no return: not finite, or for good above 3x the level before."""
        for step, loss in enumerate(self.losses, start=1):
            if not math.isfinite(loss):
                return step
        start = self.losses[max(0, breaks_at - 50) : breaks_at] or self.losses[:3]
        level = 3 * max(sorted(start)[len(start) // 2], 1e-3)
        below = [step for step, loss in enumerate(self.losses, start=1) if loss <= level]
        last = below[-1] if below else 0
        return last + 1 if last < len(self.losses) - 20 else None


def run(course: Course, steps: int, every: int | None = 50, size: int = 32) -> Outcome:
    """The loop of the documentation."""
    outcome = Outcome()
    monitor = outcome.monitor = TrainingMonitor(
        course.model,
        course.optimizer,
        batch_size=size,
        every=every,
        observe=lambda event: outcome.told.append((monitor.steps, event.kind)),
    )
    for step in range(1, steps + 1):
        course.before_step(step)
        batch = next(course.stream)
        course.optimizer.zero_grad()
        for part, share in monitor.parts(batch):
            loss = course.loss(course.model, part)
            (loss * share).backward()
        course.before_update(step)
        course.optimizer.step()
        monitor.step(loss)
        outcome.losses.append(float(loss.detach()))
        if not math.isfinite(outcome.losses[-1]):
            break
    return outcome


def draws(data: tuple[Tensor, ...], size: int, seed: int) -> Iterator[Batch]:
    """Shuffled epochs over tensors, the ragged end left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(data[0]), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            yield tuple(column[rows] for column in data)


def classify(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def regress(model: nn.Module, batch: Batch) -> Tensor:
    return functional.mse_loss(model(batch[0])[:, 0], batch[1])


def blobs(seed: int, count: int = 4096) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(5, 10, generator=generator)
    labels = torch.randint(0, 5, (count,), generator=generator)
    return centres[labels] + torch.randn(count, 10, generator=generator), labels


def curve(seed: int, count: int = 2048, tails: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 10, generator=generator)
    noise = torch.randn(count, generator=generator)
    if tails:
        noise = noise / torch.rand(count, generator=generator).clamp(1e-3) ** tails
    return inputs, torch.sin(inputs[:, 0]) + 0.5 * inputs[:, 1] + 0.1 * noise


def perceptron(seed: int, outputs: int = 5, width: int = 32) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Linear(width, outputs))


def _sgd(model: nn.Module, rate: float, momentum: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)


def _adam(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=rate)


# ---- healthy ----------------------------------------------------------------------------------


def blobs_sgd(seed: int) -> Course:
    model = perceptron(seed)
    return Course(model, _sgd(model, 0.05), draws(blobs(seed), 32, seed), classify)


def blobs_plain_sgd(seed: int) -> Course:
    model = perceptron(seed)
    return Course(model, _sgd(model, 0.5, 0.0), draws(blobs(seed), 32, seed), classify)


def blobs_adam(seed: int) -> Course:
    model = perceptron(seed)
    return Course(model, _adam(model, 3e-3), draws(blobs(seed), 32, seed), classify)


def curve_adam(seed: int) -> Course:
    model = perceptron(seed, 1)
    return Course(model, _adam(model, 3e-3), draws(curve(seed), 32, seed), regress)


def heavy_tails(seed: int) -> Course:
    model = perceptron(seed, 1)
    return Course(model, _adam(model, 1e-3), draws(curve(seed, tails=0.4), 32, seed), regress)


def overfitting(seed: int) -> Course:
    model = perceptron(seed, width=64)
    return Course(model, _adam(model, 3e-3), draws(blobs(seed, 128), 32, seed), classify)


def whole_set(seed: int) -> Course:
    model = perceptron(seed, 1)
    data = curve(seed, 256)
    return Course(model, _sgd(model, 0.02), draws(data, 256, seed), regress)


def scheduled(seed: int) -> Course:
    model = perceptron(seed)
    optimizer = _sgd(model, 0.1)

    def rate(step: int) -> None:
        share = min(step / 100, 0.5 * (1 + math.cos(math.pi * min(1.0, step / 800))))
        optimizer.param_groups[0]["lr"] = 0.2 * share

    return Course(model, optimizer, draws(blobs(seed), 32, seed), classify, rate)


def tiny_batches(seed: int) -> Course:
    model = perceptron(seed)
    return Course(model, _adam(model, 1e-3), draws(blobs(seed), 4, seed), classify)


def recurrent(seed: int) -> Course:
    torch.manual_seed(seed)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.out = nn.GRU(1, 16, batch_first=True), nn.Linear(16, 1)

        def forward(self, series: Tensor) -> Tensor:
            return self.out(self.inside(series)[0][:, -1])

    model = Net()
    time = torch.arange(4096) / 7 + seed
    values = torch.sin(time) + 0.3 * torch.sin(2.7 * time)
    windows = values.unfold(0, 17, 1)
    data = (windows[:, :16, None].contiguous(), windows[:, 16].contiguous())
    return Course(model, _adam(model, 3e-3), draws(data, 32, seed), regress)


HEALTHY = tuple(
    Training(make.__name__, make)
    for make in (
        blobs_sgd,
        blobs_plain_sgd,
        blobs_adam,
        curve_adam,
        heavy_tails,
        overfitting,
        whole_set,
        scheduled,
        tiny_batches,
        recurrent,
    )
)


# ---- made to go wrong -------------------------------------------------------------------------


def rate_far_too_high(seed: int) -> Course:
    model = perceptron(seed, 1)
    return Course(model, _sgd(model, 0.9), draws(curve(seed), 32, seed), regress)


def rate_raised(seed: int) -> Course:
    """A healthy training whose rate grows by 2% a step, later on."""
    course = curve_adam(seed)
    course.optimizer = _sgd(course.model, 0.01)
    group = course.optimizer.param_groups[0]

    def raise_rate(step: int) -> None:
        group["lr"] = 0.01 * 1.02 ** max(0, step - BREAKS_AT)

    course.before_step = raise_rate
    return course


def adam_rate_raised(seed: int) -> Course:
    course = blobs_adam(seed)
    group = course.optimizer.param_groups[0]

    def raise_rate(step: int) -> None:
        group["lr"] = 3e-3 * 1.03 ** max(0, step - BREAKS_AT)

    course.before_step = raise_rate
    return course


def labels_go_wrong(seed: int) -> Course:
    """Later on the loss is climbed, slowly: a sign error somewhere."""
    course = blobs_sgd(seed)
    course.optimizer = _sgd(course.model, 0.01)
    parameters = list(course.model.parameters())

    def flip(step: int) -> None:
        if step >= BREAKS_AT:
            for parameter in parameters:
                parameter.grad.neg_()

    course.before_update = flip
    return course


def edge_of_stability(seed: int) -> Course:
    """Gradient descent on a quadratic bowl whose rate is 1% beyond its largest curvature."""
    torch.manual_seed(seed)
    model = nn.Linear(10, 1, bias=False)
    inputs = torch.randn(256, 10) * torch.logspace(0, -1.5, 10)
    data = (inputs, inputs @ torch.randn(10))
    top = float(torch.linalg.eigvalsh(2 * inputs.T @ inputs / 256)[-1])
    return Course(model, _sgd(model, 2.01 / top, 0.0), draws(data, 256, seed), regress)


def edge_with_noise(seed: int) -> Course:
    """A perceptron in batches of 256 at a rate that the curvature just does not allow."""
    model = perceptron(seed, 1)
    data = curve(seed)
    return Course(model, _sgd(model, 0.55, 0.0), draws(data, 256, seed), regress)


def one_bad_batch(seed: int) -> Course:
    """One batch whose inputs are not normalised and whose labels belong to others."""
    course = blobs_sgd(seed)
    good = course.stream
    step = 0

    def stream() -> Iterator[Batch]:
        nonlocal step
        for inputs, labels in good:
            step += 1
            yield (inputs * 8, (labels + 1) % 5) if step == BREAKS_AT else (inputs, labels)

    course.stream = stream()
    return course


def some_wrong_labels(seed: int, share: float = 0.25) -> Course:
    """One batch, a quarter of whose labels belong to others."""
    course = blobs_sgd(seed)
    good = course.stream

    def stream() -> Iterator[Batch]:
        for step, (inputs, labels) in enumerate(good, start=1):
            if step == BREAKS_AT:
                wrong = labels.clone()
                wrong[-round(share * len(labels)) :] += 1
                yield inputs, wrong % 5
            else:
                yield inputs, labels

    course.stream = stream()
    return course


def bursts(seed: int) -> Course:
    """Later on the gradient is now and then forty times what it was."""
    course = blobs_sgd(seed)
    course.optimizer = _sgd(course.model, 0.01, 0.0)
    generator = torch.Generator().manual_seed(seed)
    parameters = list(course.model.parameters())

    def burst(step: int) -> None:
        factor = 40.0 if step >= BREAKS_AT and torch.rand((), generator=generator) < 0.5 else 1.0
        for parameter in parameters:
            parameter.grad.mul_(factor)

    course.before_update = burst
    return course


def not_held(seed: int) -> Course:
    """An optimizer over another model's parameters: the classic after re-creating a model."""
    course = blobs_sgd(seed)
    other = perceptron(seed + 1)
    course.model = other
    return course


def no_signal(seed: int) -> Course:
    """Labels that have nothing to do with the inputs."""
    inputs, labels = blobs(seed, 16384)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    model = perceptron(seed)
    with torch.no_grad():
        model[2].weight.mul_(1e-3)
        model[2].bias.zero_()
    return Course(model, _sgd(model, 1e-4), draws((inputs, shuffled), 32, seed), classify)


def square_root_of_zero(seed: int) -> Course:
    """A loss whose gradient is infinite once two outputs meet."""
    course = blobs_adam(seed)
    now = 0

    def count(step: int) -> None:
        nonlocal now
        now = step

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        extra = (0 * model(batch[0])).sum().sqrt() if now >= BREAKS_AT else 0.0
        return classify(model, batch) + extra

    course.before_step = count
    course.loss = loss
    return course


BROKEN = (
    Training("rate far too high", rate_far_too_high, Kind.DIVERGING),
    Training("rate raised, SGD", rate_raised, Kind.DIVERGING, BREAKS_AT),
    Training("rate raised, Adam", adam_rate_raised, Kind.DIVERGING, BREAKS_AT),
    Training("loss climbed", labels_go_wrong, Kind.DIVERGING, BREAKS_AT),
    Training("edge of stability", edge_of_stability, Kind.OSCILLATING),
    Training("edge, mini-batches", edge_with_noise, Kind.OSCILLATING),
    Training("one bad batch", one_bad_batch, Kind.SPIKE, BREAKS_AT),
    Training("a quarter of one batch's labels wrong", some_wrong_labels, Kind.SPIKE, BREAKS_AT),
    Training("bursts of gradient", bursts, Kind.ERRATIC, BREAKS_AT),
    Training("parameters not held", not_held, Kind.STALLED),
    Training("no signal", no_signal, Kind.STALLED),
    Training("infinite gradient", square_root_of_zero, Kind.NOT_FINITE, BREAKS_AT),
)
