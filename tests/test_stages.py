"""What the stages add around the rooms they call: budgets, caches, isolation, the base pair."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fakes import FakeClock
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import batchfinder as bf
from batchfinder.base_pair import Base, own_pair
from batchfinder.confirm import OwnPair
from batchfinder.noise import MicroBatchVariance
from batchfinder.progress import silent
from batchfinder.results import StageStarted
from batchfinder.session import Budget, opened

ROWS = 400


def loader(**arguments: Any) -> DataLoader[Any]:
    torch.manual_seed(1)
    dataset = TensorDataset(torch.randn(ROWS, 8), torch.randint(2, (ROWS,)))
    return DataLoader(dataset, **{"batch_size": 16, "shuffle": True, **arguments})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))


def made() -> dict[str, Any]:
    """What a child process builds."""
    return {"model": network(), "loader": loader()}


def test_a_budget_runs_down_by_the_clock_it_is_given() -> None:
    clock = FakeClock()
    budget = Budget(10.0, clock, clock())
    assert (budget.left(), budget.share(0.5), budget.is_spent(0.5)) == (10.0, 5.0, False)
    clock.pass_by(6.0)
    assert (budget.left(), budget.share(0.5), budget.is_spent(0.5)) == (4.0, 2.0, True)
    clock.pass_by(60.0)
    assert (budget.left(), budget.is_spent()) == (0.0, True)


def test_without_a_budget_nothing_is_ever_spent() -> None:
    clock = FakeClock()
    budget = Budget(None, clock, clock())
    clock.pass_by(1e9)
    assert (budget.left(), budget.share(0.5), budget.is_spent()) == (None, None, False)


def test_by_default_there_is_a_minute_and_some_of_the_users_own_steps() -> None:
    clock = FakeClock()
    budget = Budget(None, clock, clock(), has_default=True)
    assert budget.left() == 60.0
    budget.own_step_seconds = 2.0
    clock.pass_by(40.0)
    assert (budget.left(), budget.is_spent(0.5)) == (60.0, False)


def test_what_a_call_may_take_is_said_at_its_start_and_again_where_steps_are_slow() -> None:
    events: list[Any] = []
    training = bf.Training(network(), loader())
    with opened(training, observe=events.append, has_default_budget=True) as call:
        assert [each.text for each in events] == [
            "this call takes up to about 60 s; set its time with budget_seconds="
        ]
        call.own_step_takes(0.1)
        assert len(events) == 1
        call.own_step_takes(3.0)
        assert events[-1].text.code == "session.longer"
        assert "takes about 3 s, so this call takes up to about 2 min 00 s" in events[-1].text
        cut = call.cut_short("session.search", largest=64)
    assert cut.startswith("the default budget of about 2 min 00 s ran out")


def test_a_call_of_which_the_caller_sets_the_time_says_nothing_of_it() -> None:
    events: list[Any] = []
    training = bf.Training(network(), loader())
    with opened(
        training, observe=events.append, budget_seconds=5.0, has_default_budget=True
    ) as call:
        call.own_step_takes(3.0)
        assert call.budget.limit_seconds == 5.0
    assert events == []


def test_a_short_budget_is_kept_and_what_it_cut_is_said() -> None:
    events: list[Any] = []
    report = bf.find_batch_size(
        network(),
        loader(),
        base_learning_rate=0.01,
        memory_limit="16MiB",
        budget_seconds=0.01,
        observe=events.append,
    )
    cut = {each.code: each for each in report.caveats if each.startswith("budget_seconds=0.01 ")}
    assert "session.not_confirmed" in cut
    assert all(code.startswith("session.") for code in cut)
    assert not any("memory" in each or "dataset" in each for each in cut.values())
    assert report.confirmation is None
    assert report.max_batch_size in {trial.batch_size for trial in report.trials if trial.fits}
    assert report.state_restored


class Slow(IterableDataset):
    """A stream of ``count`` samples, every one of which takes ``seconds``."""

    def __init__(self, seconds: float, count: int = 3000) -> None:
        self.seconds, self.count = seconds, count
        self.read = 0

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.count):
            self.read += 1
            time.sleep(self.seconds)
            yield torch.randn(8, generator=generator), 1


def test_looking_at_a_slow_stream_is_part_of_the_budget_and_stops_in_time() -> None:
    events: list[tuple[float, Any]] = []
    stream = Slow(0.02)
    started = time.perf_counter()
    found = bf.max_batch_size(
        network(),
        DataLoader(stream, batch_size=4),
        memory_limit="16MiB",
        at_most=8,
        budget_seconds=1.0,
        observe=lambda event: events.append((time.perf_counter() - started, event)),
    )
    assert events[0][0] < 10.0  # 4096 samples would take more than a minute; imports some seconds
    assert stream.read < 30
    assert any("budget left time to read" in caveat for caveat in found.caveats)


def test_the_budget_begins_before_the_samples_are_looked_at() -> None:
    training = bf.Training(network(), DataLoader(Slow(0.02), batch_size=4))
    with opened(training, observe=lambda event: None, budget_seconds=5.0) as call:
        left = call.budget.left()
    assert left is not None
    assert left < 4.9
    assert call.loader is training.loader


def test_the_stages_are_announced_in_order() -> None:
    events: list[Any] = []
    bf.find_batch_size(
        network(),
        loader(),
        base_learning_rate=0.01,
        memory_limit="16MiB",
        noise=MicroBatchVariance(warmup_steps=8),
        budget_seconds=600,  # so long that no machine is too busy to confirm
        observe=events.append,
    )
    started = [event.stage.name for event in events if isinstance(event, StageStarted)]
    assert started == ["PROBE", "MEASURE", "NOISE", "RECOMMEND", "CONFIRM"]


def test_the_base_pair_is_the_loaders_size_and_the_optimizers_rate() -> None:
    model = network()
    report = bf.find_batch_size(
        model,
        loader(batch_size=20),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.07),
        memory_limit="16MiB",
        noise=MicroBatchVariance(warmup_steps=4),
        budget_seconds=5,
    )
    assert (report.base_batch_size, report.base_learning_rate) == (20, pytest.approx(0.07))


def test_a_base_larger_than_the_dataset_is_said() -> None:
    report = bf.find_batch_size(
        network(),
        loader(),
        base_batch_size=10 * ROWS,
        base_learning_rate=0.01,
        memory_limit="16MiB",
        noise=MicroBatchVariance(warmup_steps=4),
        budget_seconds=5,
    )
    assert report.base_batch_size == ROWS
    assert any("exceeds the 400" in caveat for caveat in report.caveats)


def test_a_model_left_in_evaluation_mode_is_trained_in_training_mode() -> None:
    modes: set[bool] = set()

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.add(self.training)
            return self.body(x)

    model = Watching().eval()
    bf.max_batch_size(model, loader(), memory_limit="200KiB", at_most=8)
    assert modes == {True}
    assert not model.training


def test_where_batch_norm_cannot_have_its_two_samples_the_error_is_about_memory() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)
            self.last = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 1:
                raise torch.OutOfMemoryError("simulated")
            return self.last(self.norm(x))

    with pytest.raises(bf.NothingFits, match="micro-batch of 2"):
        bf.max_batch_size(Wide(), loader(), memory_limit="1MiB")


def test_one_process_alone_is_one_device() -> None:
    with opened(bf.Training(network(), loader()), observe=silent) as call:
        assert (call.replicas, call.bench.step.ranks) == (1, bf.ALONE)


def test_the_estimate_of_the_whole_training_can_be_told_from_the_others() -> None:
    events: list[Any] = []
    report = bf.find_batch_size(
        network(),
        loader(),
        base_learning_rate=0.01,
        memory_limit="16MiB",
        noise=MicroBatchVariance(warmup_steps=20),
        budget_seconds=6,
        observe=events.append,
    )
    estimates = [event for event in events if isinstance(event, bf.NoiseScale)]
    assert [each for each in estimates if each.whole_training] == [report.noise_scale]


def test_a_rate_of_zero_at_the_start_of_a_schedule_is_not_taken_for_the_rate() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 100)
    assert optimizer.param_groups[0]["lr"] == 0
    report = bf.find_batch_size(
        model,
        loader(),
        optimizer=optimizer,
        memory_limit="16MiB",
        noise=MicroBatchVariance(warmup_steps=4),
        budget_seconds=5,
    )
    assert report.base_learning_rate == pytest.approx(0.2)
    assert report.learning_rate is not None
    assert report.learning_rate > 0
    assert any(
        "learning rate is now 0, under a schedule: its peak, 0.2" in caveat
        for caveat in report.caveats
    )


@pytest.mark.parametrize("arguments", [{"multiple_of": 24}, {"powers_of_two": True}])
def test_only_the_sizes_asked_for_are_measured_and_recommended(arguments: dict[str, Any]) -> None:
    report = bf.find_batch_size(
        network(),
        loader(batch_size=48),
        base_batch_size=96 if "multiple_of" in arguments else 64,
        base_learning_rate=0.01,
        memory_limit="16MiB",
        noise=MicroBatchVariance(warmup_steps=4),
        budget_seconds=5,
        **arguments,
    )
    sizes = {each.batch_size for each in report.measurements} | {report.batch_size}
    sizes |= {trial.batch_size for trial in report.trials}
    if "multiple_of" in arguments:
        assert all(size % 24 == 0 for size in sizes)
    else:
        assert all(size & (size - 1) == 0 for size in sizes)


def test_the_given_rate_is_the_one_that_the_assumed_optimizer_trains_with() -> None:
    report = bf.find_batch_size(
        network(),
        loader(),
        base_learning_rate=0.05,
        memory_limit="16MiB",
        noise=MicroBatchVariance(warmup_steps=4),
        budget_seconds=5,
    )
    assert not any("0.001" in caveat for caveat in report.caveats)


def test_an_optimizer_that_was_not_passed_is_found_and_put_back() -> None:
    model = network()
    hidden = torch.optim.Adam(model.parameters())

    def step(model: nn.Module, batch: Any) -> None:
        hidden.zero_grad()
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        hidden.step()

    events: list[Any] = []
    report = bf.find_batch_size(
        model,
        loader(),
        train_step=step,
        memory_limit="16MiB",
        budget_seconds=4,
        observe=events.append,
    )
    assert report.state_restored
    assert not hidden.state
    assert report.learning_rate is None
    started = [event for event in events if isinstance(event, StageStarted)]
    assert started[-1].stage is bf.Stage.CONFIRM and "rate" not in started[-1].detail
    assert any("could be neither read nor set" in caveat for caveat in report.caveats)


def test_an_optimizer_that_cannot_be_found_is_not_vouched_for() -> None:
    model = network()

    def step(model: nn.Module, batch: Any) -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        torch.optim.Adam(model.parameters()).step()

    with pytest.warns(bf.StateNotRestoredWarning, match="optimizer="):
        report = bf.find_batch_size(
            model, loader(), train_step=step, memory_limit="16MiB", budget_seconds=4
        )
    assert not report.state_restored
    assert any("optimizer inside train_step" in caveat for caveat in report.caveats)


def test_a_device_that_was_never_used_is_not_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = network(), loader()
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    bf.max_batch_size(model, batches, memory_limit="200KiB", at_most=8)
    assert seeded == []


class Fragmented(nn.Module):
    """Fits in every trial; in ordinary use memory runs out above ``most`` samples."""

    def __init__(self, most: int, ordinary: Any) -> None:
        super().__init__()
        self.body, self.most, self.ordinary = network(), most, ordinary

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most and self.ordinary():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.body(x)


def not_in_a_trial() -> bool:
    names = {frame.name for frame in traceback.extract_stack()}
    return not names & {"run_trial", "first_guess"}


def test_memory_in_fragments_after_the_search_is_said_and_no_crash() -> None:
    """Timing, loss check, range test, noise scale: all meet less memory than the trials did."""
    report = bf.find_batch_size(
        Fragmented(12, not_in_a_trial),
        loader(),
        memory_limit="16MiB",
        at_most=64,
        noise=MicroBatchVariance(warmup_steps=8),
        budget_seconds=90,  # of which every size gets its turn on a busy machine too
        observe=lambda event: None,
    )
    assert report.max_batch_size == 64
    assert max(each.batch_size for each in report.measurements) <= 12
    assert report.batch_size <= 12
    left_out = [c for c in report.caveats if "excluded from the choice" in c]
    assert {int(c.split()[2]) for c in left_out} >= {16, 32, 64}
    assert report.state_restored


def test_where_nothing_can_be_timed_any_more_the_error_is_about_memory() -> None:
    model = Fragmented(0, not_in_a_trial)
    with pytest.raises(bf.NothingFits, match="a micro-batch of 1, although it fit"):
        bf.find_batch_size(model, loader(), memory_limit="16MiB", at_most=8, base_learning_rate=0.1)
    with pytest.raises(bf.NothingFits, match="another process probably took memory"):
        bf.eval_batch_size(model, loader(), memory_limit="16MiB", at_most=8)


def test_a_parameter_outside_the_model_and_gradients_are_put_back() -> None:
    model, temperature = network(), nn.Parameter(torch.tensor(1.5))
    optimizer = torch.optim.Adam([*model.parameters(), temperature], lr=0.1)

    def step(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]) * temperature, batch[1])

    step(model, next(iter(loader()))).backward()
    every = [*model.parameters(), temperature]
    held = [each.grad for each in every]
    values = [each.grad.clone() for each in every]
    report = bf.find_batch_size(
        model,
        loader(),
        train_step=step,
        optimizer=optimizer,
        memory_limit="16MiB",
        noise=MicroBatchVariance(warmup_steps=4),
        budget_seconds=4,
        observe=lambda event: None,
    )
    assert report.state_restored
    assert temperature.item() == 1.5
    assert all(each.grad is grad for each, grad in zip(every, held, strict=True))
    assert all(torch.equal(each.grad, value) for each, value in zip(every, values, strict=True))


def test_a_pair_that_was_assumed_is_not_known_to_train() -> None:
    assert own_pair(Base(32, 0.1)) == OwnPair(32, 0.1)
    assert own_pair(Base(32, 0.1, is_yours=False)) is None
    assert own_pair(Base(32, None)) is None
