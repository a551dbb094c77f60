"""TrainingMonitor: what it measures is true, and the training is the same with it."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monitor_cases import accumulate, batches, exact_moments, loss_of, mlp, samples, train
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from batchfinder import InvalidArgument, TrainingMonitor
from batchfinder.monitor import History, Kind


def watched(
    every: int = 5, rate: float = 0.05, size: int = 32, **options: object
) -> tuple[nn.Sequential, torch.optim.Optimizer, TrainingMonitor]:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return (
        model,
        optimizer,
        TrainingMonitor(model, optimizer, batch_size=size, every=every, **options),
    )


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- what is measured -------------------------------------------------------------------------


def test_the_noise_scale_is_the_exact_one() -> None:
    model, optimizer, monitor = watched(every=1, rate=0.0, size=128, window=300)
    train(model, optimizer, monitor, batches(128, count=300))
    signal, trace = exact_moments(model)
    found = monitor.noise_scale
    assert found is not None
    assert found.value == pytest.approx(trace / signal, rel=0.15)
    assert found.low < trace / signal < found.high
    assert found.noise_trace == pytest.approx(trace, rel=0.05)
    assert found.gradient_squared == pytest.approx(signal, rel=0.15)
    assert found.micro_batch == 64


def test_the_users_own_accumulation_is_measured_without_any_splitting() -> None:
    model, optimizer, monitor = watched(every=1, rate=0.0, size=128, window=200)
    accumulate(model, optimizer, monitor, batches(32, count=800), 4)
    signal, trace = exact_moments(model)
    found = monitor.noise_scale
    assert found is not None
    assert found.noise_trace == pytest.approx(trace, rel=0.05)
    assert found.gradient_squared == pytest.approx(signal, rel=0.2)
    assert found.micro_batch == 32
    assert monitor.samples == 200 * 128


def test_parts_of_several_batches_per_step_are_not_split_again() -> None:
    model, optimizer, monitor = watched(every=1, rate=0.0, window=200)
    sizes = set()
    stream = batches(32, count=800)
    while group := list(itertools.islice(stream, 4)):
        optimizer.zero_grad()
        for batch in group:
            for part, share in monitor.parts(batch):
                sizes.add(len(part[0]))
                value = loss_of(model, part)
                (value * share / 4).backward()
        optimizer.step()
        monitor.step(value)
    signal, trace = exact_moments(model)
    assert monitor.noise_scale is not None
    assert monitor.noise_scale.noise_trace == pytest.approx(trace, rel=0.05)
    assert monitor.noise_scale.gradient_squared == pytest.approx(signal, rel=0.25)
    assert sizes == {32, 16}, "the first step alone cannot know that more batches come"


def test_clipping_is_not_seen() -> None:
    def run(clip: Callable[[nn.Module], None]) -> TrainingMonitor:
        model, optimizer, monitor = watched(every=1, rate=0.0, window=50)
        train(model, optimizer, monitor, batches(32, count=50), before_update=lambda: clip(model))
        return monitor

    clipped = run(lambda model: nn.utils.clip_grad_norm_(model.parameters(), 1e-3))
    assert clipped.noise_scale == run(lambda model: None).noise_scale


@pytest.mark.parametrize("scale", [1024.0, 2.0**16])
def test_a_gradient_scaler_is_unscaled(scale: float) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=7)
    monitor = TrainingMonitor(model, optimizer, batch_size=32, every=1, grad_scaler=scaler)
    plain_model, plain_optimizer, plain = watched(every=1, rate=0.0)
    train(plain_model, plain_optimizer, plain, batches(32, count=30))
    for batch in batches(32, count=30):
        optimizer.zero_grad()
        for part, share in monitor.parts(batch):
            value = loss_of(model, part)
            scaler.scale(value * share).backward()
        scaler.step(optimizer)
        scaler.update()
        monitor.step(value)
    assert monitor.noise_scale is not None
    assert plain.noise_scale is not None
    assert monitor.noise_scale.value == pytest.approx(plain.noise_scale.value, rel=1e-3)
    assert monitor.noise_scale.noise_trace == pytest.approx(plain.noise_scale.noise_trace, rel=1e-3)


def test_autocast_is_measured_too() -> None:
    def loss(model: nn.Module, part: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss_of(model, part)

    found = []
    for function in (loss, loss_of):
        model, optimizer, monitor = watched(every=1, rate=0.0)
        train(model, optimizer, monitor, batches(32, count=40), loss=function)
        assert monitor.noise_scale is not None
        found.append(monitor.noise_scale.noise_trace)
    assert found[0] == pytest.approx(found[1], rel=0.02)


def test_adam_is_measured_in_its_own_metric() -> None:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = TrainingMonitor(model, optimizer, batch_size=32, every=2)
    train(model, optimizer, monitor, batches(32, count=80))
    assert monitor.noise_scale is not None
    assert monitor.noise_scale.estimator.endswith("in the optimizer's metric")


def test_a_compiled_step_around_the_model_stays_one_graph() -> None:
    """The model's own hook at a look is traced with it, and may ask nothing of a tensor."""
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = TrainingMonitor(model, optimizer, batch_size=8, every=5)

    @torch.compile(backend="eager", fullgraph=True)
    def loss_times(share: float, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return share * torch.nn.functional.cross_entropy(model(x), y)

    for x, y in batches(8, count=45):
        optimizer.zero_grad()
        for part, share in monitor.parts((x, y)):
            loss = loss_times(share, *part)
            loss.backward()
        optimizer.step()
        monitor.step(loss)
    assert monitor.noise_scale is not None
    assert monitor.caveats == ()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_is_measured_without_compiling_again(backend: str) -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)
    plain, optimizer, monitor = watched(every=4, rate=0.05)
    train(plain, optimizer, monitor, batches(32, count=40))
    inner = mlp()
    model = torch.compile(inner, backend=counter, dynamic=True)
    optimizer = torch.optim.SGD(inner.parameters(), lr=0.05)
    seen = TrainingMonitor(model, optimizer, batch_size=32, every=4)
    train(model, optimizer, seen, batches(32, count=12))
    compiled = counter.frame_count
    train(model, optimizer, seen, itertools.islice(batches(32), 12, 40))
    assert counter.frame_count == compiled
    assert seen.noise_scale is not None
    assert monitor.noise_scale is not None
    assert seen.noise_scale.value == pytest.approx(monitor.noise_scale.value, rel=1e-3)


# ---- the training is the same -----------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_monitor_that_never_splits_changes_not_one_bit(kind: type[torch.optim.Optimizer]) -> None:
    ended = []
    for watch in (True, False):
        model = mlp()
        optimizer = kind(model.parameters(), lr=0.01)
        monitor = TrainingMonitor(model, optimizer, batch_size=32, every=3) if watch else None
        accumulate(model, optimizer, monitor, batches(8, count=80), 4)
        ended.append((model, torch.get_rng_state()))
    assert same(ended[0][0], ended[1][0])
    assert torch.equal(ended[0][1], ended[1][1])


def test_a_monitor_that_splits_is_within_rounding() -> None:
    ended = []
    for watch in (True, False):
        model, optimizer, monitor = watched(every=3)
        train(model, optimizer, monitor if watch else None, batches(31, count=30))
        ended.append(model)
    for a, b in zip(*(model.parameters() for model in ended), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_nothing_is_left_on_the_model() -> None:
    model, optimizer, monitor = watched(every=3)
    train(model, optimizer, monitor, batches(32, count=2))  # the next step would be looked at
    assert model._forward_pre_hooks
    monitor.close()
    assert not model._forward_pre_hooks
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def test_ordinary_steps_carry_no_hooks_and_hand_out_the_batch_itself() -> None:
    model, optimizer, monitor = watched(every=10)
    for step, batch in enumerate(batches(32, count=9), start=1):
        parts = list(monitor.parts(batch))
        assert len(parts) == 1
        assert parts[0][0] is batch
        assert not model._forward_pre_hooks
        train(model, optimizer, None, iter([batch]))
        monitor.step(1.0 / step)
    assert [len(part[0]) for part, _ in monitor.parts(batch)] == [16, 16]


# ---- what cannot be measured ------------------------------------------------------------------


def test_batch_norm_is_not_split_unless_asked() -> None:
    for split, parts in ((False, 1), (True, 2)):
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = TrainingMonitor(model, optimizer, batch_size=64, every=1, split_batch_norm=split)
        assert len(list(monitor.parts(samples(64)))) == parts
        assert ("monitor.batch_norm" in {each.code for each in monitor.caveats}) is not split


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((torch.zeros(5, 8, 6), torch.zeros(8)), "5 rows for 8 samples|8 rows for 5 samples"),
        ((torch.zeros(8, 6), object()), "it holds a object"),
        ((torch.zeros(1, 6), torch.zeros(1)), "1 sample alone"),
        ("text", "no samples"),
        (
            (nn.utils.rnn.pack_sequence([torch.zeros(3, 2), torch.zeros(2, 2)]), torch.zeros(2)),
            "it holds a PackedSequence",
        ),
    ],
)
def test_a_batch_that_cannot_be_cut_safely_is_handed_out_whole(batch: object, words: str) -> None:
    _, _, monitor = watched(every=1)
    parts = list(monitor.parts(batch))
    assert len(parts) == 1
    assert parts[0][0] is batch
    (caveat,) = monitor.caveats
    assert any(word in caveat for word in words.split("|"))


def test_a_mapping_is_cut_in_every_part() -> None:
    _, _, monitor = watched(every=1, size=6)
    batch = {"x": torch.arange(12.0).view(6, 2), "names": list("abcdef"), "scale": 3.0}
    first, second = (part for part, _ in monitor.parts(batch))
    assert first["names"] == list("abc")
    assert second["x"].tolist() == batch["x"][3:].tolist()
    assert first["scale"] == second["scale"] == 3.0


BY_SAMPLE = ([torch.zeros(6)] * 8, [{"label": torch.tensor(1)}] * 8)
"""As detection and sequences without padding are collated: an entry for each of 8 samples."""


@pytest.mark.parametrize(
    "batch",
    [
        BY_SAMPLE,
        {"inputs": BY_SAMPLE[0], "targets": BY_SAMPLE[1]},
        [(torch.zeros(6), torch.tensor(1))] * 8,
        [torch.zeros(6)] * 8,
    ],
)
def test_lists_of_samples_are_counted_by_entry_and_not_cut_within_one(batch: object) -> None:
    _, _, monitor = watched(every=2, size=8)
    for _ in range(4):
        assert [(part, share) for part, share in monitor.parts(batch)] == [(batch, 1.0)]
        monitor.step(1.0)
    assert monitor.samples == 4 * 8
    assert "monitor.rows" in {each.code for each in monitor.caveats}


def test_a_sequence_with_time_first_is_not_cut_in_time() -> None:
    """(time, batch) in all its tensors: only the batch size tells that rows are no samples."""
    _, _, monitor = watched(every=1, size=8)
    batch = (torch.zeros(20, 8, 3), torch.zeros(20, 8))
    assert len(list(monitor.parts(batch))) == 1
    (caveat,) = monitor.caveats
    assert "20 rows where batch_size says 8 samples" in caveat


def test_the_last_batch_of_an_epoch_is_cut_once_rows_are_known_for_samples() -> None:
    _, _, monitor = watched(every=2, size=8)
    assert len(list(monitor.parts(samples(8)))) == 1
    monitor.step(1.0)
    assert [len(part[0]) for part, _ in monitor.parts(samples(5))] == [2, 3]
    assert monitor.caveats == ()


def test_one_backward_without_parts_is_said() -> None:
    model, optimizer, monitor = watched(every=1)
    accumulate(model, optimizer, monitor, batches(32, count=12), 1)
    assert monitor.noise_scale is None
    assert [each.code for each in monitor.caveats] == ["monitor.one_backward"]
    assert math.isfinite(monitor.history.readings[-1].gradient_norm)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size as a count of at least 1; found 0"),
        ({"batch_size": 64.0}, "batch_size as a count of at least 1; found 64.0"),
        ({"every": 0}, "every as a count of at least 1; found 0"),
        ({"every": "50"}, "every as a count of at least 1; found '50'"),
        ({"window": 3}, "window as a count of at least 8; found 3"),
        ({"dataset_size": -1}, "dataset_size as a count of at least 2; found -1"),
        ({"observe": 3}, "observe as a function; found int"),
        ({"model": torch.optim.SGD([torch.zeros(1)])}, "a torch.nn.Module .* found SGD"),
        ({"optimizer": nn.Linear(1, 1)}, "a torch optimizer, .* found Linear: pass the model"),
        ({"optimizer": None}, "a torch optimizer, .* found NoneType"),
        ({"optimizer": []}, "a torch optimizer, .* found list"),
    ],
)
def test_arguments_are_checked(wrong: dict[str, object], message: str) -> None:
    model, optimizer, _ = watched()
    given = {"model": model, "optimizer": optimizer, "batch_size": 8, **wrong}
    with pytest.raises(InvalidArgument, match=message):
        TrainingMonitor(given.pop("model"), given.pop("optimizer"), **given)


@pytest.mark.parametrize("loss", [{"loss": torch.tensor(1.0)}, [1.0], torch.tensor(1j), "x"])
def test_a_loss_that_is_none_is_refused(loss: object) -> None:
    _, _, monitor = watched()
    with pytest.raises(InvalidArgument, match="a tensor, a number or None; found"):
        monitor.step(loss)


# ---- the history ------------------------------------------------------------------------------


def test_the_history_survives_json(tmp_path: Path) -> None:
    model, optimizer, monitor = watched(every=2)
    train(model, optimizer, monitor, batches(32, count=30))
    monitor.step(math.nan)
    history = monitor.history
    assert [event.kind for event in history.events] == [Kind.NOT_FINITE]
    text = history.to_json(tmp_path / "history.json")
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert History.from_json(text).to_dict() == history.to_dict()
    again = History.from_json(tmp_path / "history.json")
    assert str(again.events[0]) == str(history.events[0])
    assert again.events[0].said.code == "monitor.not_finite_loss"


def test_readings_count_samples_and_steps() -> None:
    model, optimizer, monitor = watched(every=10, size=1)
    train(model, optimizer, monitor, batches(32, count=45))
    steps = [reading.step for reading in monitor.history.readings]
    assert steps == [12, 22, 32, 42]
    assert [reading.samples for reading in monitor.history.readings] == [32 * s for s in steps]
    assert {reading.batch_size for reading in monitor.history.readings} == {32}


def test_losses_may_be_numbers_and_tensors_alike() -> None:
    _, _, monitor = watched(every=3)
    for loss in (1.0, torch.tensor(1.0), torch.tensor([1.0], dtype=torch.bfloat16)):
        monitor.step(loss)
    assert monitor.steps == 3


def test_the_figure_has_four_panels_and_numbers_the_events() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    model, optimizer, monitor = watched(every=2)
    train(model, optimizer, monitor, batches(32, count=30))
    monitor.step(math.nan)
    axes = monitor.plot()
    assert axes.shape == (2, 2)
    assert [ax.get_title(loc="left") for ax in axes.flat] == [
        "Noise scale",
        "Loss",
        "Gradient norm",
        "Batch size",
    ]
    assert all("1" in {text.get_text() for text in ax.texts} for ax in axes.flat)
    assert History().plot().shape == (2, 2)
    pyplot.close("all")


def test_an_unrelated_caveat_does_not_silence_that_of_one_backward() -> None:
    model, optimizer, monitor = watched(every=1)
    monitor.took(16)
    monitor.took(16)
    accumulate(model, optimizer, monitor, batches(32, count=1), 1)  # one backward, counted as two
    assert [each.code for each in monitor.caveats] == ["monitor.not_counted"]
    accumulate(model, optimizer, monitor, batches(32, count=12), 1)
    codes = [each.code for each in monitor.caveats]
    assert codes == ["monitor.not_counted", "monitor.one_backward"]
