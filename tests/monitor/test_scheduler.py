"""BatchSizeScheduler: sizes when they are due, every sample once, and the rate along with them."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from monitor_cases import loss_of, mlp, samples
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from batchfinder import BatchSizeScheduler, CannotBuildBatch, InvalidArgument, TrainingMonitor
from batchfinder.monitor import (
    Doubling,
    FollowMonitor,
    GrowInsteadOfDecay,
    Linear,
    Milestones,
    Progress,
    Target,
)
from batchfinder.monitor.rate import RateFactor
from batchfinder.results import NoiseScale
from batchfinder.scaling import fixed, linear


class Numbers(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        return index


def growing(
    schedule: Any, count: int = 100, loader: DataLoader | None = None, **options: Any
) -> BatchSizeScheduler:
    if loader is None:
        loader = DataLoader(Numbers(count), batch_size=4, shuffle=True)
    optimizer = torch.optim.SGD(mlp().parameters(), lr=0.1)
    return BatchSizeScheduler(loader, optimizer, schedule, **options)


def epoch(growth: BatchSizeScheduler, most: int | None = None) -> list[list[int]]:
    seen = []
    for batch in itertools.islice(growth.loader, most):
        seen.append(batch.tolist())
        growth.step()
    return seen


def sizes(batches: list[list[int]]) -> list[int]:
    return [len(batch) for batch in batches]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


# ---- schedules --------------------------------------------------------------------------------


def at(samples: int, base: int = 32, **more: Any) -> Progress:
    return Progress(samples, more.pop("now", base), base, **more)


def test_milestones() -> None:
    schedule = Milestones({1000: 64, 5000: 256})
    found = [schedule(at(n)).batch_size for n in (0, 999, 1000, 4999, 5000, 10**9)]
    assert found == [32, 32, 64, 64, 256, 256]


def test_linear_growth_ends_exactly() -> None:
    schedule = Linear(to=100, over_samples=1000, multiple_of=8)
    found = [schedule(at(n)).batch_size for n in (0, 250, 500, 999, 1000, 5000)]
    assert found == [32, 48, 64, 96, 100, 100]


def test_doubling() -> None:
    schedule = Doubling(1000, at_most=100)
    assert [schedule(at(n)).batch_size for n in (0, 999, 1000, 2000, 10**12)] == [
        32,
        32,
        64,
        100,
        100,
    ]
    assert schedule(at(5000, base=200)).batch_size == 200, "it never shrinks"


@pytest.mark.parametrize(("family", "power"), [("sgd-momentum", 1), ("adam", 2)])
def test_growth_takes_the_place_of_decay(family: str, power: int) -> None:
    schedule = GrowInsteadOfDecay((100, 200, 300), at_most=32 * 2 ** (2 * power))
    targets = [schedule(at(n, family=family)) for n in (0, 100, 200, 300)]
    assert [t.batch_size for t in targets] == [
        32,
        32 * 2**power,
        32 * 4**power,
        32 * 4**power,
    ]
    assert [t.rate_factor for t in targets] == pytest.approx([1, 1, 1, 0.5])


def noise(low: float) -> NoiseScale:
    return NoiseScale(2 * low, low, 4 * low, 100, "test")


def test_the_monitor_is_followed_where_it_is_sure() -> None:
    schedule = FollowMonitor(at_most=128)
    assert schedule(at(0)).batch_size == 32
    assert schedule(at(0, noise_scale=noise(63))).batch_size == 32
    assert schedule(at(0, noise_scale=noise(64))).batch_size == 64
    assert schedule(at(0, noise_scale=noise(64), devices=2)).batch_size == 32
    assert schedule(at(0, now=128, noise_scale=noise(1e9))).batch_size == 128


def test_step_times_decide_which_size_is_followed_to() -> None:
    def schedule(knee: float, at_most: int = 1024) -> FollowMonitor:
        seconds = {2**power: 1 + 2**power / knee for power in range(4, 12)}
        return FollowMonitor(at_most, step_seconds=seconds)

    # the shortest of (1 + B / knee)(1 + φ / B) is at the root of knee · φ
    wide, narrow = schedule(knee=1024), schedule(knee=32)
    assert wide(at(0, now=32, noise_scale=noise(256))).batch_size == 512
    assert wide(at(0, now=32, noise_scale=noise(256), devices=4)).batch_size == 256
    assert narrow(at(0, now=32, noise_scale=noise(32))).batch_size == 32
    assert schedule(1024, at_most=128)(at(0, noise_scale=noise(256))).batch_size == 128
    assert wide(at(0, now=512, noise_scale=noise(300))).batch_size == 512  # not worth a change
    assert wide(at(0, now=512, noise_scale=noise(8))).batch_size == 512  # never shrinks
    assert wide(at(0, now=8, noise_scale=noise(8))).batch_size == 8  # no step time is known there
    assert wide(at(0)).batch_size == 32


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Doubling(0, 8),
        lambda: Linear(8, 0),
        lambda: Milestones({-1: 8}),
        lambda: Milestones({1: 0}),
        lambda: GrowInsteadOfDecay((1,), 8, factor=1.0),
        lambda: FollowMonitor(0),
        lambda: FollowMonitor(8, margin=0),
        lambda: FollowMonitor(8, worth="0.9"),
        lambda: Doubling(2.5, 8),
        lambda: Milestones(8),
        lambda: GrowInsteadOfDecay(1, 8),
        lambda: GrowInsteadOfDecay((0.5,), 8),
        lambda: FollowMonitor(8, step_seconds={8: 0.0}),
        lambda: growing(FollowMonitor(8)),
        lambda: growing(Doubling(1, 8), largest=0),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgument):
        wrong()


# ---- batches ----------------------------------------------------------------------------------


def test_a_change_takes_effect_at_the_very_next_batch() -> None:
    growth = growing(Milestones({12: 8, 44: 16}))
    batches = epoch(growth)
    assert sizes(batches) == [4, 4, 4, 8, 8, 8, 8, 16, 16, 16, 8]
    assert sorted(flat(batches)) == list(range(100))
    assert growth.samples == 100
    assert growth.last_batch_size == 16


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_do_not_delay_a_change(persistent: bool) -> None:
    loader = DataLoader(
        Numbers(100),
        batch_size=4,
        shuffle=True,
        num_workers=2,
        prefetch_factor=4,
        persistent_workers=persistent,
    )
    growth = growing(Milestones({12: 8, 44: 16}), loader=loader)
    assert sizes(epoch(growth)) == [4, 4, 4, 8, 8, 8, 8, 16, 16, 16, 8]
    again = epoch(growth, 2)
    state = copy.deepcopy(growth.state_dict())
    resumed = growing(Milestones({12: 8, 44: 16}), loader=loader)
    resumed.load_state_dict(state)
    assert sorted(flat(again) + flat(epoch(resumed))) == list(range(100))


def test_drop_last_is_kept() -> None:
    loader = DataLoader(Numbers(30), batch_size=4, drop_last=True)
    growth = growing(Milestones({8: 8}), loader=loader)
    assert sizes(epoch(growth)) == [4, 4, 8, 8]
    assert len(growth.loader) == 3


@pytest.mark.parametrize(
    "sampler",
    [
        lambda data: RandomSampler(data, generator=torch.Generator().manual_seed(3)),
        lambda data: WeightedRandomSampler(torch.ones(40), 40, replacement=False),
        lambda data: DistributedSampler(data, 2, 1, shuffle=True),
        lambda data: list(reversed(range(40))),
    ],
)
def test_any_sampler_gives_the_order(sampler: Any) -> None:
    data = Numbers(40)
    torch.manual_seed(5)
    plain = [
        index for batch in DataLoader(data, 4, sampler=sampler(data)) for index in batch.tolist()
    ]
    growth = growing(Doubling(8, 16), loader=DataLoader(data, 4, sampler=sampler(data)))
    torch.manual_seed(5)
    assert flat(epoch(growth)) == plain


def test_set_epoch_of_a_distributed_sampler_still_works() -> None:
    orders = []
    for rank in range(2):
        sampler = DistributedSampler(Numbers(64), 2, rank, shuffle=True)
        growth = growing(Doubling(8, 16), loader=DataLoader(Numbers(64), 4, sampler=sampler))
        for number in range(2):
            sampler.set_epoch(number)
            orders.append(epoch(growth))
    first, second = orders[0], orders[2]
    assert sizes(first) == sizes(second)
    assert sorted(flat(first) + flat(second)) == list(range(64))
    assert flat(orders[0]) != flat(orders[1])


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_resume_within_an_epoch_sees_every_sample_once(stop: int) -> None:
    schedule = Milestones({12: 8, 44: 16})
    whole, growth = growing(schedule), growing(schedule)
    torch.manual_seed(7)
    expected = epoch(whole)
    torch.manual_seed(7)
    before = epoch(growth, stop)
    state = copy.deepcopy(growth.state_dict())
    resumed = growing(schedule)
    resumed.load_state_dict(state)
    torch.manual_seed(1234)  # the generator need not be resumed
    after = epoch(resumed)
    assert before + after == expected
    assert (resumed.samples, resumed.steps) == (whole.samples, whole.steps)
    assert sorted(flat(epoch(resumed))) == list(range(100)), "the next epoch is whole"


def test_a_batch_in_hand_without_its_step_is_seen_again() -> None:
    growth = growing(Doubling(16, 32))
    batches = iter(growth.loader)
    first = next(batches).tolist()
    growth.step()
    second = next(batches).tolist()
    state = growth.state_dict()
    assert sorted([*first, *state["remaining"]]) == list(range(100))
    assert second == state["remaining"][:4]
    assert [next(batches).tolist(), growth.samples][1] == 4, "the one that was saved goes on"


def test_at_the_end_of_an_epoch_nothing_remains() -> None:
    growth = growing(Doubling(16, 32))
    epoch(growth)
    assert growth.state_dict()["remaining"] is None


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD(mlp().parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (lambda progress: 16, "the schedule to return a Target; found int"),
        (lambda progress: Target(0), "the schedule's batch_size as a count of at least 1; found 0"),
        (lambda progress: Target(2.5), "as a count of at least 1; found 2.5"),
    ],
)
def test_a_schedule_that_says_no_size_is_refused_where_it_does(schedule: Any, message: str) -> None:
    growth = BatchSizeScheduler(DataLoader(Numbers(64), 8), sgd(), schedule)
    with pytest.raises(InvalidArgument, match=message):
        next(iter(growth.loader))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": None}, "schedule as a function; found NoneType"),
        ({"optimizer": None}, "a torch optimizer"),
        ({"largest": 2.5}, "largest as a count of at least 1; found 2.5"),
        ({"ramp_steps": -1}, "ramp_steps as a count of at least 0; found -1"),
        ({"monitor": 3}, "monitor as a TrainingMonitor; found int"),
        ({"learning_rate_rule": 3}, "learning_rate_rule as a function; found int"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(wrong: dict[str, Any], message: str) -> None:
    given = {"optimizer": sgd(), "schedule": Doubling(10, 8), **wrong}
    optimizer, schedule = given.pop("optimizer"), given.pop("schedule")
    with pytest.raises(InvalidArgument, match=message):
        BatchSizeScheduler(DataLoader(Numbers(64), 8), optimizer, schedule, **given)


@pytest.mark.parametrize("state", [None, {}, {"steps": 1}])
def test_a_state_of_something_else_is_refused(state: Any) -> None:
    growth = BatchSizeScheduler(DataLoader(Numbers(64), 8), sgd(), Doubling(10, 8))
    with pytest.raises(InvalidArgument, match=r"a state from BatchSizeScheduler.state_dict\(\)"):
        growth.load_state_dict(state)


def test_a_batch_of_lists_by_sample_is_not_cut_within_one() -> None:
    """Eight rows in each of 16 samples are not 8 samples."""
    rows = TensorDataset(torch.zeros(64, 8))
    loader = DataLoader(rows, 16, collate_fn=lambda batch: [row for (row,) in batch])
    growth = BatchSizeScheduler(loader, sgd(), Milestones({}), largest=8)
    batch = next(iter(growth.loader))
    with pytest.raises(CannotBuildBatch, match=r"a batch of 16 samples .* found 8 rows"):
        list(growth.parts(batch))


def test_loaders_that_make_their_own_batches_are_refused() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(range(10))

    class Own(torch.utils.data.BatchSampler):
        pass

    for loader in (
        DataLoader(Stream(), batch_size=2),
        DataLoader(Numbers(8), batch_size=None),
        DataLoader(Numbers(8), batch_sampler=Own(range(8), 2, False)),
        [1, 2, 3],
    ):
        with pytest.raises(CannotBuildBatch, match="expected a DataLoader"):
            growing(Doubling(1, 8), loader=loader)


def test_a_subclass_of_the_loader_stays_what_it_is() -> None:
    class Loader(DataLoader):
        def __init__(self, note: str, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.note = note

        def __iter__(self) -> Any:
            for batch in super().__iter__():
                yield batch + 1000

    growth = growing(Milestones({4: 8}), loader=Loader("kept", Numbers(12), batch_size=4))
    assert epoch(growth) == [[1000, 1001, 1002, 1003], list(range(1004, 1012))]


# ---- what fits --------------------------------------------------------------------------------


def test_beyond_what_fits_batches_are_accumulated() -> None:
    data = TensorDataset(*samples(64))
    growth = growing(Milestones({16: 40}), loader=DataLoader(data, 16), largest=16)
    parts = [[len(part[0]) for part, _ in growth.parts(batch)] for batch in _stepped(growth)]
    assert parts == [[16], [13, 13, 14], [8]]
    shares = [share for _, share in growth.parts(samples(40))]
    assert sum(shares) == pytest.approx(1)
    with pytest.raises(CannotBuildBatch, match="split it yourself"):
        list(growth.parts((torch.zeros(40, 6), torch.zeros(39))))


def _stepped(growth: BatchSizeScheduler) -> Any:
    for batch in growth.loader:
        yield batch
        growth.step()


def test_without_accumulation_it_stops_at_what_fits() -> None:
    growth = growing(Doubling(4, 64), accumulate=False, largest=10)
    assert max(sizes(epoch(growth))) == 10


# ---- the rate ---------------------------------------------------------------------------------


def training(schedule: Any, **options: Any) -> tuple[BatchSizeScheduler, Any, list[float]]:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(*samples(400)), batch_size=4)
    growth = BatchSizeScheduler(loader, optimizer, schedule, **options)
    used: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    for batch in growth.loader:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        growth.step()
        assert optimizer.param_groups[0]["lr"] == 0.1, "between steps it is the user's"
    return growth, optimizer, used


def test_the_rate_follows_the_rule_on_a_ramp() -> None:
    growth, _, used = training(Milestones({8: 8}), learning_rate_rule=linear, ramp_steps=4)
    assert used[:8] == pytest.approx([0.1, 0.1, 0.125, 0.15, 0.175, 0.2, 0.2, 0.2])
    assert growth.rate_factor == 2.0
    assert growth.last_learning_rate == pytest.approx(0.2)


def test_the_rate_falls_at_once_and_may_stay() -> None:
    _, _, used = training(Milestones({8: 2}), learning_rate_rule=linear)
    assert used[:4] == pytest.approx([0.1, 0.1, 0.05, 0.05])
    _, _, used = training(Milestones({8: 8}), learning_rate_rule=fixed)
    assert set(used) == {0.1}


def test_the_family_decides_the_rule() -> None:
    known = NoiseScale(1e9, 1e9, 1e9, 100, "test")
    growth, _, _ = training(Milestones({8: 16}), noise_scale=known)
    assert growth.rate_factor == pytest.approx(4.0)
    growth, _, _ = training(Milestones({8: 16}))
    assert growth.rate_factor == pytest.approx(2.0), "without a noise scale: the square root"


def test_a_scheduler_of_the_rate_goes_on_as_before() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    loader = DataLoader(TensorDataset(*samples(32)), batch_size=8)
    rule = {"learning_rate_rule": linear, "ramp_steps": 0}
    growth = BatchSizeScheduler(loader, optimizer, Milestones({8: 16}), **rule)
    used: list[float] = []
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    for batch in growth.loader:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        scheduler.step()
        growth.step()
    assert used == pytest.approx([0.1, 0.05 * 2, 0.025 * 2])
    assert scheduler.get_last_lr() == pytest.approx([0.0125])
    assert optimizer.state_dict()["param_groups"][0]["lr"] == pytest.approx(0.0125)


class Failing(torch.optim.SGD):
    fails = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        if self.fails:
            raise RuntimeError("out of memory")
        return super().step(closure)


def test_a_step_that_fails_does_not_raise_the_rate_twice() -> None:
    model = mlp()
    optimizer = Failing(model.parameters(), lr=0.1)
    used: list[float] = []
    factor = RateFactor([optimizer], ramp_steps=0)
    optimizer.register_step_pre_hook(lambda *_: used.append(optimizer.param_groups[0]["lr"]))
    factor.move_to(2.0)
    optimizer.fails = True
    with pytest.raises(RuntimeError):
        optimizer.step()
    optimizer.fails = False
    optimizer.step()
    assert used == pytest.approx([0.2] * len(used))
    assert optimizer.param_groups[0]["lr"] == 0.1
    factor.close()
    optimizer.step()
    assert used[-1] == pytest.approx(0.1)


def test_the_ramp_is_resumed() -> None:
    growth = growing(Milestones({8: 8}), learning_rate_rule=linear, ramp_steps=10)
    epoch(growth, 5)
    resumed = growing(Milestones({8: 8}), learning_rate_rule=linear, ramp_steps=10)
    resumed.load_state_dict(growth.state_dict())
    assert resumed.rate_factor == growth.rate_factor
    for one, two in zip(epoch(growth, 3), epoch(resumed, 3), strict=True):
        assert len(one) == len(two)
    assert resumed.rate_factor == growth.rate_factor


# ---- with a monitor ---------------------------------------------------------------------------


def test_the_monitor_is_followed_and_told() -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = TrainingMonitor(model, optimizer, batch_size=4, every=1)
    loader = DataLoader(TensorDataset(*samples(4000)), batch_size=4)
    growth = BatchSizeScheduler(
        loader, optimizer, FollowMonitor(at_most=16), monitor=monitor, largest=8
    )
    for batch in growth.loader:
        optimizer.zero_grad()
        for part, share in growth.parts(batch):
            loss = loss_of(model, part)
            (loss * share).backward()
        optimizer.step()
        growth.step()
        monitor.step(loss)
    assert growth.last_batch_size == 16
    assert monitor.batch_size == 16
    assert monitor.rate_factor == growth.rate_factor > 1
    sizes = [reading.batch_size for reading in monitor.history.readings]
    assert sizes[0] == 4
    assert sizes[-2] == 16
    noise = monitor.history.readings[-2].noise_scale
    assert noise is not None
    assert noise.micro_batch == 8


def test_a_schedule_of_ones_own_is_a_function() -> None:
    growth = growing(lambda progress: Target(progress.batch_size + 1))
    assert sizes(epoch(growth))[:4] == [5, 6, 7, 8]
