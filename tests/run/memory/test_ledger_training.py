"""Whole training steps: the peak by hand, and by the profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from memory_cases import CPU, FLOAT, rise_by_profiler, whole_step
from memory_models import TRAININGS
from torch import nn
from torch.utils.checkpoint import checkpoint

from batchfinder.run.memory.ledger import Ledger

IN, HIDDEN, OUT, ROWS = 64, 256, 32, 128
FIRST, SECOND = HIDDEN * IN + HIDDEN, OUT * HIDDEN + OUT
WEIGHTS = (FIRST + SECOND) * FLOAT


def perceptron() -> tuple[nn.Sequential, torch.Tensor]:
    model = nn.Sequential(nn.Linear(IN, HIDDEN), nn.ReLU(inplace=True), nn.Linear(HIDDEN, OUT))
    return model, torch.zeros(ROWS, IN)


def take_step(model: nn.Module, inputs: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(inputs).sum().backward()
    optimizer.step()


def test_forward_keeps_the_activations() -> None:
    model, inputs = perceptron()
    with Ledger(CPU) as ledger:
        ledger.hold([*model.parameters(), inputs])
        assert ledger.current == WEIGHTS + ROWS * IN * FLOAT
        before = ledger.current
        loss = model(inputs).sum()
        # the hidden layer is saved, the output is not: the gradient of a sum needs no values
        assert ledger.current - before == ROWS * HIDDEN * FLOAT + FLOAT
        del loss
        assert ledger.current == before


def test_backward_frees_them_and_leaves_gradients() -> None:
    model, inputs = perceptron()
    with Ledger(CPU) as ledger:
        ledger.hold([*model.parameters(), inputs])
        before = ledger.current
        model(inputs).sum().backward()
        assert ledger.current - before == WEIGHTS
        hidden, output = ROWS * HIDDEN * FLOAT, ROWS * OUT * FLOAT
        # Highest in the first layer's backward. The gradient of the output is an expanded 1. Alive:
        # the hidden layer (kept by the mask of its sign), its gradient before and after the mask.
        second = SECOND * FLOAT
        assert ledger.peak - before == 3 * hidden + second + FLOAT + FLOAT, (hidden, output)


@pytest.mark.parametrize(
    ("make", "states"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 1),
        (lambda p: torch.optim.Adam(p, lr=0.1), 2),
        (lambda p: torch.optim.AdamW(p, lr=0.1, amsgrad=True), 3),
        (lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True), 2),
        (lambda p: torch.optim.AdamW(p, lr=0.1, fused=True), 2),
    ],
    ids=["SGD", "momentum", "Adam", "AMSGrad", "foreach", "fused"],
)
def test_between_steps_what_the_optimizer_holds(
    make: Callable[[Any], torch.optim.Optimizer], states: int
) -> None:
    model, inputs = perceptron()
    optimizer = make(model.parameters())
    with Ledger(CPU) as ledger:
        ledger.hold([*model.parameters(), inputs])
        base = ledger.current
        for _ in range(2):
            take_step(model, inputs, optimizer)
            counters = 4 * FLOAT if states >= 2 else 0  # Adam counts steps in a tensor each
            assert ledger.current - base == WEIGHTS * (1 + states) + counters


@pytest.mark.parametrize("foreach", [False, True])
def test_temporaries_of_the_update(foreach: bool) -> None:
    """Adam one parameter at a time needs two temporaries of one; foreach, of all."""
    model, inputs = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), foreach=foreach)
    take_step(model, inputs, optimizer)
    model(inputs).sum().backward()
    held = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None)]
    state = [t for s in optimizer.state.values() for t in s.values()]
    with Ledger(CPU) as ledger:
        ledger.hold([*held, *state])
        before = ledger.current
        optimizer.step()
        temporaries = ledger.peak - before
        assert ledger.current == before
    largest = HIDDEN * IN * FLOAT
    whole = WEIGHTS if foreach else largest
    assert whole <= temporaries <= 2 * whole + 64


def test_tied_weights_count_once() -> None:
    embedding, head = nn.Embedding(100, 16), nn.Linear(16, 100, bias=False)
    head.weight = embedding.weight
    with Ledger(CPU) as ledger:
        ledger.hold([*embedding.parameters(), *head.parameters()])
        assert ledger.current == 100 * 16 * FLOAT
        head(embedding(torch.zeros(1, dtype=torch.long))).sum().backward()
        del embedding.weight.grad
        gone = ledger.current
        assert gone == 100 * 16 * FLOAT


def test_checkpointing_trades_saved_activations_for_recomputed_ones() -> None:
    layers = nn.ModuleList(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(8))

    def run(values: torch.Tensor, again: bool) -> torch.Tensor:
        for layer in layers:
            values = checkpoint(layer, values, use_reentrant=False) if again else layer(values)
        return values

    peaks = {}
    for again in (False, True):
        layers.zero_grad()
        with Ledger(CPU) as ledger:
            ledger.hold(layers.parameters())
            held = ledger.current
            loss = run(torch.zeros(1000, 64), again).sum()
            peaks[again] = ledger.current - held
            loss.backward()
            del loss
    rows = 1000 * 64 * FLOAT
    # each layer saves its output; checkpointed, each saves its input, which is the output before
    assert peaks[False] == 9 * rows + FLOAT
    assert peaks[True] == 8 * rows + FLOAT


def test_autocast_copies_count() -> None:
    layer, inputs = nn.Linear(256, 256, bias=False), torch.zeros(8, 256)
    with Ledger(CPU) as ledger:
        ledger.hold([*layer.parameters(), inputs])
        before = ledger.current
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(inputs)
            # the casts of weight and input are cached and saved, and the output is half as wide
            assert ledger.current - before == 2 * (256 * 256 + 8 * 256 + 8 * 256)
        output.float().sum().backward()


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_against_the_profiler(name: str) -> None:
    """Equal where no kernel allocates inside itself; else below, and by how much is known."""
    training = TRAININGS[name]
    step, source = training.make()
    batch = source.take(training.size)
    whole_step(step, batch)
    with Ledger(CPU) as ledger:
        ledger.hold([*step.holdings(), *batch])
        before = ledger.current
        whole_step(step, batch)
        counted = ledger.peak - before
    true = rise_by_profiler(lambda: whole_step(step, batch))
    assert true * training.least_share <= counted <= true
