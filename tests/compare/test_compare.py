"""The empirical study: what it trains, what survives an interruption, what it says."""

import math

import pytest
import torch
from compare_cases import data, step_cost, study
from torch.utils.data import DataLoader

from batchfinder.compare import Ending, Stopping, compare_batch_sizes
from batchfinder.errors import InvalidArgument
from batchfinder.results import BatchPlan
from batchfinder.scaling import fixed, linear
from batchfinder.training import Training

# --- what is trained -----------------------------------------------------------------------------


def test_every_size_gets_the_same_samples_and_is_timed_by_training_alone():
    found = study((8, 32), seeds=2)
    assert len(found.cells) == 4
    for cell in found.cells:
        assert cell.ending is Ending.FINISHED
        assert cell.samples == 4 * 256
        assert cell.steps == 1024 // cell.batch_size
        assert cell.seconds == pytest.approx(cell.steps * step_cost(cell.batch_size))
        assert [look.samples for look in cell.curve] == [128 * k for k in range(1, 9)]


def test_the_model_learns_and_validation_sees_it():
    (cell,) = study((8,), seeds=1, epochs=20).cells
    assert cell.final(lambda look: look.validation_loss) < 0.001


def test_validation_weighs_batches_by_their_samples():
    """256 samples in batches of 100, 100 and 56 are the mean over 256."""

    class Constant(torch.nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) * 0

    (cell,) = study((8,), seeds=1, make_model=lambda: Constant(3, 1)).cells
    targets = data(seed=1).tensors[1]
    assert cell.curve[-1].validation_loss == pytest.approx(float((targets**2).mean()), rel=1e-5)


def test_validation_is_in_evaluation_mode_without_gradient():
    seen = []

    class Watched(torch.nn.Linear):
        def forward(self, inputs):
            seen.append((self.training, torch.is_grad_enabled(), len(inputs)))
            return super().forward(inputs)

    study((8,), seeds=1, make_model=lambda: Watched(3, 1))
    assert {(training, grad) for training, grad, n in seen if n in (100, 56)} == {(False, False)}
    assert {(training, grad) for training, grad, n in seen if n == 8} == {(True, True)}


def test_a_metric_of_the_users_own():
    def within_a_tenth(model, batch):
        return ((model(batch[0]) - batch[1]).abs() < 0.1).float().mean()

    found = study((8,), seeds=1, epochs=20, metric=within_a_tenth)
    assert found.cells[0].final(lambda look: look.metric) == 1.0
    assert "within_a_tenth" in str(found)


def test_rates_follow_the_rule_and_the_grid():
    found = study((8, 32), seeds=1, learning_rate_rule=linear, rate_factors=(0.5, 1.0))
    rates = [(arm.batch_size, arm.learning_rate) for arm in found.arms]
    assert rates == [(8, 0.025), (8, 0.05), (32, 0.1), (32, 0.2)]
    assert {arm.learning_rate for arm in study(learning_rate_rule=fixed).arms} == {0.05}


def test_the_warm_up_and_the_schedule_set_the_rate():
    rates = []

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    study(
        (64,),
        seeds=1,
        make_optimizer=lambda model: Spy(model.parameters(), lr=0.1),
        base_batch_size=64,
        warmup_steps=4,
        schedule=lambda progress: 1 - progress,
    )
    # The last 16 of these: building and the memory trial took steps before.
    expected = [0.1 * min(1, (k + 1) / 4) * (1 - k / 16) for k in range(16)]
    assert rates[-16:] == pytest.approx(expected)


def test_the_same_seed_trains_the_same():
    one, two = study((8,), seeds=[3]), study((8,), seeds=[3])
    assert one.cells == two.cells
    assert study((8,), seeds=[4]).cells != one.cells


def test_the_random_generators_are_put_back():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    study((8,), seeds=1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_reports_pair_is_trained_exactly_beside_the_users_own():
    from report_cases import plain

    found = plain()
    studied = study(
        None,
        report=found,
        base_batch_size=None,
        seeds=1,
        make_loader=lambda size: DataLoader(data(4096), batch_size=size, shuffle=True),
    )
    pairs = {(cell.batch_size, cell.learning_rate) for cell in studied.cells}
    assert (found.global_batch_size, found.learning_rate) in pairs
    assert {size for size, _ in pairs} == {found.base_batch_size, found.global_batch_size}
    assert studied.recommended == found.global_batch_size


def test_a_size_that_is_kept_at_another_rate_is_trained_at_the_users_too():
    from dataclasses import replace

    from report_cases import plain

    found = plain()
    recommendation = replace(
        found.recommendation, plan=BatchPlan(found.base_batch_size), learning_rate=0.5
    )
    kept = replace(found, recommendation=recommendation)
    studied = study(
        None,
        report=kept,
        base_batch_size=None,
        seeds=1,
        make_loader=lambda size: DataLoader(data(4096), batch_size=size, shuffle=True),
    )
    pairs = {(cell.batch_size, cell.learning_rate) for cell in studied.cells}
    assert pairs == {(found.base_batch_size, 0.5), (found.base_batch_size, kept.base_learning_rate)}


@pytest.mark.parametrize(
    "wrong", [{"sizes": (0,)}, {"seeds": 0}, {"samples": 0}, {"learning_rate_rule": "cubic"}]
)
def test_what_is_wrong_is_refused_by_the_name_of_the_function(wrong):
    with pytest.raises(InvalidArgument, match=r"^compare_batch_sizes: expected"):
        study(wrong.pop("sizes", (8,)), **wrong)


def test_neither_sizes_nor_a_report_is_refused():
    with pytest.raises(InvalidArgument, match="compare_batch_sizes: expected sizes, or a report"):
        study(None)


def test_accumulated_steps_see_the_same_samples():
    from dataclasses import replace

    from report_cases import plain

    found = plain()
    plan = replace(found.recommendation.plan, micro_batch=8, accumulation_steps=4)
    cut = replace(found, recommendation=replace(found.recommendation, plan=plan))
    (cell,) = study((32,), report=cut, seeds=1).cells
    assert (cell.batch_size, cell.accumulation_steps) == (32, 4)
    assert (cell.steps, cell.samples) == (1024 // 32, 1024)


def test_early_stopping_ends_where_validation_no_longer_improves():
    (cell,) = study(
        (8,), seeds=1, base_learning_rate=1e-30, stopping=Stopping(early_stopping=2)
    ).cells
    assert cell.ending is Ending.EARLY
    assert len(cell.curve) == 3


def test_what_is_trained_is_taken_from_the_training_that_is_built():
    """Loader, loss, clipping and the count of samples; its scheduler says the rate, no more."""
    clipped = []

    def make_training():
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        return Training(
            model,
            DataLoader(data(), batch_size=4, shuffle=True),
            loss_fn=torch.nn.functional.mse_loss,
            optimizer=optimizer,
            scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (10 - step)),
            clip=lambda parameters: clipped.append(len(parameters)),
            count=lambda batch: 2 * len(batch[0]),
        )

    found = compare_batch_sizes(make_training, sizes=(8, 32), epochs=1, seeds=1, base_batch_size=8)
    assert [cell.batch_size for cell in found.cells] == [8, 32]
    assert found.cells[0].learning_rate == 0.2  # the peak; what stands in the groups is a tenth
    assert [cell.samples for cell in found.cells] == [256, 256]
    assert [cell.steps for cell in found.cells] == [16, 4]  # a count twice the rows
    assert set(clipped) == {2}
    assert any("scheduler" in caveat for caveat in found.caveats)


def test_what_stands_in_the_training_and_beside_it_is_refused():
    def make_training():
        return Training(torch.nn.Linear(3, 1), loss_fn=torch.nn.functional.mse_loss)

    with pytest.raises(InvalidArgument, match="loss_fn once"):
        compare_batch_sizes(
            make_training,
            lambda size: DataLoader(data(), batch_size=size),
            (8,),
            loss_fn=torch.nn.functional.l1_loss,
        )


@pytest.mark.parametrize("wrong", [{"patience": 0.5}, {"early_stopping": 0}])
def test_what_cannot_stop_a_training_is_refused(wrong):
    with pytest.raises(InvalidArgument, match=f"expected {next(iter(wrong))} to be"):
        Stopping(**wrong)


# --- endings -------------------------------------------------------------------------------------


def test_a_rate_that_diverges_ends_early_and_is_named():
    found = study((8,), seeds=1, base_learning_rate=100.0, stopping=Stopping(target_loss=0.1))
    (cell,) = found.cells
    assert cell.ending is Ending.DIVERGED
    assert cell.samples < 1024
    assert math.isnan(found.regret(8))
    assert "diverged" in str(found)


def test_what_can_no_longer_win_is_stopped():
    """At 8 the target comes after 3 min; at a rate of nothing, 32 would go on for 8."""
    found = study(
        (8, 32),
        seeds=1,
        rate_factors=(1, 0.001),
        epochs=40,
        stopping=Stopping(target_loss=0.01, patience=1.5),
    )
    endings = {(c.batch_size, c.learning_rate > 0.01): c.ending for c in found.cells}
    assert endings == {
        (8, True): Ending.FINISHED,
        (8, False): Ending.HOPELESS,
        (32, True): Ending.FINISHED,
        (32, False): Ending.HOPELESS,
    }
    assert all(c.samples < 40 * 256 for c in found.cells if c.ending is Ending.HOPELESS)


def test_a_noisy_loss_is_no_divergence():
    """Batches of one scatter by more than a factor of three; at a tiny rate nothing happens."""
    found = study((1,), seeds=1, base_learning_rate=1e-6, base_batch_size=1)
    assert found.cells[0].ending is Ending.FINISHED


def test_a_size_beyond_the_memory_limit_is_said_and_not_trained():
    found = compare_batch_sizes(
        lambda: torch.nn.Linear(3, 1),
        lambda size: DataLoader(data(4096), batch_size=size, shuffle=True),
        (8, 4096),
        loss_fn=torch.nn.functional.mse_loss,
        seeds=1,
        epochs=0.1,
        memory_limit="64KiB",
    )
    by_size = {cell.batch_size: cell for cell in found.cells}
    assert by_size[4096].ending is Ending.OUT_OF_MEMORY
    assert by_size[4096].curve == ()
    assert 0 < by_size[8].peak_bytes < 64 * 1024
    assert found.largest == 8


def test_a_bug_is_the_users_own():
    def broken(output, target):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        study((8,), loss_fn=broken)


@pytest.mark.parametrize(
    ("sizes", "options"),
    [((), {}), ((0, 8), {}), ((8,), {"seeds": 0}), ((8,), {"rate_factors": (0,)}),
     ((8,), {"samples": 0}), ((512,), {})],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(sizes, options):
    with pytest.raises(InvalidArgument):
        study(sizes, **options)


def test_a_stream_needs_a_count_of_samples():
    stream = [(torch.zeros(8, 3), torch.zeros(8, 1))] * 4
    with pytest.raises(InvalidArgument, match="samples="):
        study((8,), make_loader=lambda size: stream)
    assert study((8,), seeds=1, make_loader=lambda size: stream, samples=64).cells[0].steps == 8


# --- interruption --------------------------------------------------------------------------------


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path):
    made = []

    def make_model(stop=math.inf):
        if len(made) >= stop:
            raise KeyboardInterrupt
        made.append(1)
        return torch.nn.Linear(3, 1)

    path = tmp_path / "cells.jsonl"
    with pytest.raises(KeyboardInterrupt):
        study((8, 32), make_model=lambda: make_model(stop=6), results=path)
    done = path.read_text().splitlines()
    assert len(done) == 3  # one for the rate, one per size for memory, three trained
    path.write_text("\n".join([*done, done[0][:40]]))  # the last line was cut short
    made.clear()
    resumed = study((8, 32), make_model=make_model, results=path)
    assert len(made) == 1 + 2 + 3  # six trainings, three of them known
    assert resumed.cells == study((8, 32)).cells
    made.clear()
    assert study((8, 32), make_model=make_model, results=path) == resumed
    assert len(made) == 1


def test_another_budget_is_another_training(tmp_path):
    path = tmp_path / "cells.jsonl"
    study((8,), seeds=1, results=path)
    assert study((8,), seeds=1, epochs=2, results=path).cells[0].samples == 512


def test_what_the_budget_left_out_is_said():
    found = study((8, 32), budget_seconds=1.0)
    assert len(found.cells) == 1
    assert any("5 of 6" in caveat for caveat in found.caveats)


class Embedded(torch.nn.Module):
    """Sparse gradients without an ``Embedding`` that says so."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(9, 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding((rows[:, 0] > 0).long(), self.table, sparse=True)


def more(rows: torch.Tensor, mask: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return rows * mask * scale


class Wants(torch.nn.Linear):
    forward = staticmethod(more)  # type: ignore[assignment]


def updates(model: torch.nn.Module, batch: list[torch.Tensor]) -> None:
    torch.nn.functional.mse_loss(model(batch[0]), batch[1]).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(parameter.grad, alpha=0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"loss_fn": torch.nn.CTCLoss()}, "input_lengths.*pass train_step="),
        ({"loss_fn": torch.nn.CrossEntropyLoss()}, None),
        ({"make_model": lambda: Wants(3, 1)}, "rows, mask, scale.*pass train_step="),
        ({"make_model": Embedded, "make_optimizer": None}, "optimizer=.*sparse"),
        ({"train_step": updates, "loss_fn": None}, "return the loss before backward"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_way_out(changes, words):
    if words is None:
        study((8,), epochs=1, **changes)  # class probabilities: nothing to refuse
        return
    with pytest.raises(InvalidArgument, match=words):
        study((8,), epochs=1, **changes)


def test_the_weight_of_a_step_weighs_validation_too():
    def weighted(model, batch):
        rows, target = batch
        count = float((rows[:, 0] > 0).sum())
        return (((model(rows) - target) ** 2)[rows[:, 0] > 0].sum() / count, count)

    found = study(
        (8,), train_step=weighted, loss_fn=None, make_optimizer=None, seeds=1, rate_factors=(1e-9,)
    )
    whole = study(
        (8,),
        train_step=weighted,
        loss_fn=None,
        make_optimizer=None,
        seeds=1,
        rate_factors=(1e-9,),
        validation_loader=[data(seed=1)[:]],
    )
    assert found.cells[0].curve[0].validation_loss == pytest.approx(
        whole.cells[0].curve[0].validation_loss
    )
