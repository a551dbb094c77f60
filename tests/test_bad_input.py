"""Bad input gets a clear error that names the way out, and nothing is lost."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import batchfinder as bf
from batchfinder.noise import MicroBatchVariance
from batchfinder.run.state import preserved


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def loader(rows: int = 64, **arguments: Any) -> DataLoader[Any]:
    torch.manual_seed(1)
    dataset = TensorDataset(torch.randn(rows, 4), torch.randint(3, (rows,)))
    return DataLoader(dataset, **{"batch_size": 8, "shuffle": True, **arguments})


def refused(
    error: type[BaseException], text: str, model: Any, data: Any, **arguments: Any
) -> BaseException:
    """The call raises, says ``text``, and leaves the model and the generators as they were."""
    module = model.model if isinstance(model, bf.Training) else model
    given = [each for each in (module, arguments.get("optimizer")) if each is not None]
    with preserved(*given) as snapshot:
        with pytest.raises(error, match=text) as caught:
            bf.find_batch_size(
                model,
                data,
                **{
                    "memory_limit": "64MiB",
                    "noise": MicroBatchVariance(warmup_steps=4),
                    "budget_seconds": 600,  # never what ends it
                    **arguments,
                },
            )
        assert snapshot.differences() == ()
    return caught.value


def test_an_empty_loader() -> None:
    refused(bf.CannotBuildBatch, "make_loader", classifier(), [])
    empty = TensorDataset(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long))
    refused(bf.CannotBuildBatch, "empty|no sample", classifier(), DataLoader(empty, batch_size=8))


def test_a_batch_that_cannot_be_rebuilt() -> None:
    class Opaque:
        def __iter__(self) -> Any:
            yield object()

    refused(bf.CannotBuildBatch, "make_loader", classifier(), Opaque())


def test_the_loss_on_another_device() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.ones(3, device="meta"))
    refused(bf.DeviceMismatch, "meta", classifier(), loader(), loss_fn=loss)


def test_no_way_to_know_the_loss() -> None:
    words = TensorDataset(torch.randn(32, 4))
    refused(bf.UnknownLoss, "loss_fn", classifier(), DataLoader(words, batch_size=4))


def test_a_loss_that_is_no_scalar() -> None:
    loss = nn.CrossEntropyLoss(reduction="none")
    refused(bf.UnknownLoss, "scalar", classifier(), loader(), loss_fn=loss)


def test_a_loss_that_is_not_finite() -> None:
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output, target) * float("nan")

    refused(bf.LossIsNotFinite, "nan|finite", classifier(), loader(), loss_fn=loss)


def test_a_model_without_parameters_or_with_all_of_them_frozen() -> None:
    refused(bf.NothingToTrain, "parameter", nn.Flatten(), loader())
    frozen = classifier().requires_grad_(False)
    refused(bf.NothingToTrain, "requires_grad|frozen", frozen, loader())


def test_an_optimizer_over_other_parameters() -> None:
    other = torch.optim.SGD(classifier().parameters(), lr=0.1)
    refused(bf.NothingToTrain, "optimizer", classifier(), loader(), optimizer=other)


def test_a_limit_below_what_the_model_itself_needs() -> None:
    big = nn.Sequential(nn.Linear(4, 512), nn.Linear(512, 512), nn.Linear(512, 3))
    refused(bf.NothingFits, "optimizer state", big, loader(), memory_limit="1MiB")


def test_nothing_fits_at_one() -> None:
    class Hungry(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.repeat_interleave(4096, 1).view(-1, 4)).view(len(x), -1, 3).mean(1)

    error = refused(
        bf.NothingFits, "micro-batch of 1.*checkpointing", Hungry(), loader(), memory_limit="64KiB"
    )
    assert "KiB" in str(error)


@pytest.mark.parametrize("ceiling", [0, -3])
def test_a_ceiling_below_one(ceiling: int) -> None:
    refused(bf.InvalidArgument, "at_most", classifier(), loader(), at_most=ceiling)


@pytest.mark.parametrize(
    "wrong",
    [
        {"headroom": 1.0},
        {"headroom": -0.1},
        {"base_batch_size": 0},
        {"base_learning_rate": 0.0},
        {"budget_seconds": 0},
        {"memory_limit": "lots"},
        {"memory_limit": -1},
        {"memory_limit": [8]},
        {"headroom": "5%"},
        {"headroom": float("nan")},
        {"at_least": 1.5},
        {"budget_seconds": "1h"},
        {"at_most": "64"},
        {"multiple_of": 8.0},
    ],
)
def test_a_value_that_cannot_be_meant(wrong: dict[str, Any]) -> None:
    (name, value), *_ = wrong.items()
    error = refused(bf.InvalidArgument, name, classifier(), loader(), **wrong)
    expected, found, way_out = re.split(
        "; found |: ", str(error).removeprefix("find_batch_size: expected ")
    )
    assert (expected.split()[0], found) == (name, repr(value))
    assert way_out


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (bf.Search, {"resolution": -1}),
        (bf.Search, {"resolution": "exact"}),
        (bf.Search, {"propose": 2}),
        (MicroBatchVariance, {"warmup_steps": -1}),
        (MicroBatchVariance, {"warmup_steps": "few"}),
        (MicroBatchVariance, {"samples": 0.5}),
    ],
)
def test_a_value_object_refuses_what_is_invalid(make: Any, wrong: dict[str, Any]) -> None:
    (name, value), *_ = wrong.items()
    with pytest.raises(bf.InvalidArgument, match=f"expected {name} to be .*; found {value!r}: "):
        make(**wrong)


@pytest.mark.parametrize(
    ("argument", "names"),
    [
        (
            "objective",
            "'fewest_samples', 'highest_throughput', 'largest', 'least_energy', 'shortest_time'",
        ),
        ("learning_rate_rule", "'adascale', 'fixed', 'linear', 'lower_only', 'square_root'"),
    ],
)
@pytest.mark.parametrize("unknown", ["fastest", 3])
def test_an_unknown_strategy_is_refused_with_the_names(
    argument: str, names: str, unknown: Any
) -> None:
    error = refused(bf.InvalidArgument, names, classifier(), loader(), **{argument: unknown})
    assert str(error).startswith(f"find_batch_size: expected {argument} to be one of ")
    assert f"found {unknown!r}" in str(error)


def test_a_training_is_checked_and_takes_no_member_twice() -> None:
    training = bf.Training(classifier(), loader(), loss_fn=nn.CrossEntropyLoss())
    refused(bf.InvalidArgument, "loss_fn once", training, None, loss_fn=nn.MSELoss())
    refused(bf.InvalidArgument, "loader once", training, loader())
    refused(bf.InvalidArgument, "a loader with the model", classifier(), None)
    refused(bf.InvalidArgument, "clip", classifier(), loader(), clip=-1.0)
    with pytest.raises(bf.InvalidArgument, match="make_loader to be a function"):
        bf.max_batch_size(bf.Training(classifier(), make_loader=32))  # type: ignore[arg-type]


def test_a_share_as_text_is_told_how_to_be_written() -> None:
    refused(bf.InvalidArgument, "0.05 for 5%", classifier(), loader(), headroom="5%")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [({"noise": "micro-batch"}, "MicroBatchVariance"), ({"search": "exact"}, "Search")],
)
def test_a_strategy_of_the_wrong_kind_is_refused_at_once(wrong: dict[str, Any], text: str) -> None:
    refused(bf.InvalidArgument, text, classifier(), loader(), **wrong)


def test_a_ceiling_that_cannot_be_meant_may_be_left_out() -> None:
    refused(bf.InvalidArgument, "leave it out", classifier(), loader(), at_most=0)


def test_the_argument_is_named_as_the_caller_wrote_it() -> None:
    with pytest.raises(bf.InvalidArgument, match="expected micro_batch to be"):
        bf.gradient_noise_scale(classifier(), loader(), micro_batch=0)
    with pytest.raises(bf.InvalidArgument, match="expected memory_limit to be"):
        bf.eval_batch_size(classifier(), loader(), memory_limit="lots")


def test_a_model_that_is_none() -> None:
    with pytest.raises(bf.InvalidArgument, match=r"torch\.nn\.Module"):
        bf.find_batch_size("resnet50", loader())


@pytest.mark.parametrize("bug", [ValueError, RuntimeError, IndexError, torch.AcceleratorError])
def test_a_bug_of_the_users_own_passes_through_as_itself(bug: type[Exception]) -> None:
    class Buggy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) >= 16:
                raise bug("the shapes do not agree")
            return self.layer(x)

    error = refused(bug, "the shapes do not agree", Buggy(), loader())
    assert type(error) is bug
    notes = " ".join(error.__notes__)
    sizes = [int(size) for size in re.findall(r"batch size (\d+)", notes)]
    assert sizes
    assert min(sizes) >= 16
    assert "PROBE" in notes or "probe" in notes


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"loss_fn": nn.CrossEntropyLoss}, r"CrossEntropyLoss\(\.\.\.\)"),
        ({"loss_fn": "cross entropy"}, "loss_fn to be a function"),
        ({"optimizer": torch.optim.SGD}, r"SGD\(\.\.\.\)"),
        ({"train_step": 3}, "train_step to be a function"),
    ],
)
def test_a_class_or_a_name_where_an_object_is_meant(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(bf.InvalidArgument, match=text):
        bf.find_batch_size(classifier(), loader(), **wrong)


def test_a_step_that_ran_backward_and_no_update() -> None:
    def step(model: nn.Module, batch: Any) -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    refused(bf.UnknownLoss, "return None", model, loader(), train_step=step, optimizer=optimizer)


def test_ctrl_c_leaves_everything_as_it_was() -> None:
    class Impatient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) == 32:
                raise KeyboardInterrupt
            return self.layer(x)

    model = Impatient()
    refused(
        KeyboardInterrupt, "^$", model, loader(), optimizer=torch.optim.Adam(model.parameters())
    )
