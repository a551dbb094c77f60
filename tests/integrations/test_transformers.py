"""The trainer's own step inside ``train()``: nothing is left behind; what is applied is used."""

from __future__ import annotations

import pytest
import torch
from framework_cases import PROBE, SHORT, WHOLE, Lines, Noted, digest, seed

transformers = pytest.importorskip("transformers")

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from batchfinder import InvalidArgument
from batchfinder.integrations import transformers as adapter

fields = TrainingArguments.__dataclass_fields__
BY_LENGTH = (
    {"train_sampling_strategy": "group_by_length"}
    if "train_sampling_strategy" in fields
    else {"group_by_length": True}
)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class Counting(TrainerCallback):
    begun = 0

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.begun += 1


def trainer_of(tmp_path, kind=Trainer, callbacks=(), **changed):
    seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=128, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    )
    given = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "max_steps": 3,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        **changed,
    }
    return kind(model, TrainingArguments(**given), train_dataset=Lines(), callbacks=list(callbacks))


@pytest.mark.parametrize(
    ("changed", "search"),
    [
        ({}, SHORT),
        ({"bf16": True}, SHORT),
        ({"gradient_checkpointing": True}, SHORT),
        (BY_LENGTH, SHORT),
        ({"label_smoothing_factor": 0.1, "neftune_noise_alpha": 5.0}, SHORT),
        pytest.param({}, WHOLE, marks=pytest.mark.slow),
    ],
    ids=["plain", "bf16", "checkpointing", "by length", "smoothed, NEFTune", "whole"],
)
def test_training_afterwards_is_that_without_a_search(tmp_path, changed, search) -> None:
    ends = []
    for searched in (False, True):
        counting = Counting()
        trainer = trainer_of(tmp_path, callbacks=[counting], **changed)
        if searched:
            before = set(vars(trainer))
            report = adapter.find_batch_size(trainer, **search)
            assert set(vars(trainer)) == before
            is_bf16 = "bf16" in changed
            expected = "bfloat16 autocast over float32" if is_bf16 else "float32"
            assert report.environment.precision == expected
            assert dict(report.environment.extra)["precision"] == ("bf16" if is_bf16 else "no")
            assert counting.begun == 0
            assert report.base_batch_size == 8
            assert report.base_learning_rate == pytest.approx(1e-3)
        trainer.train()
        ends.append(digest(trainer.model, trainer.optimizer, trainer.lr_scheduler))
    assert ends[0] == ends[1]


def test_what_is_applied_equals_the_same_numbers_typed_in(tmp_path) -> None:
    trainer = trainer_of(tmp_path)
    report = adapter.find_batch_size(trainer, apply=True, **SHORT)
    typed = trainer_of(tmp_path, **adapter.training_arguments(report))
    ends = []
    for each in (trainer, typed):
        seed(1)
        each.train()
        ends.append(digest(each.model, each.optimizer))
    assert ends[0] == ends[1]
    assert trainer.args.per_device_train_batch_size == report.batch_size


def test_after_an_error_of_the_users_and_after_an_interrupt_all_is_as_before(tmp_path) -> None:
    class Failing(Trainer):
        error: type[BaseException] = ValueError

        def compute_loss(self, *args, **kwargs):
            raise self.error("planted")

    for error in (ValueError, KeyboardInterrupt):
        trainer = trainer_of(tmp_path, Failing)
        trainer.error = error
        before, callbacks = set(vars(trainer)), list(trainer.callback_handler.callbacks)
        with pytest.raises(error):
            adapter.max_batch_size(trainer, **PROBE)
        assert set(vars(trainer)) == before
        assert trainer.callback_handler.callbacks == callbacks


def test_a_trainer_that_makes_its_own_batches_is_refused(tmp_path) -> None:
    class Rollouts(Trainer):
        def _prepare_inputs(self, inputs):
            return super()._prepare_inputs(inputs)

    with pytest.raises(InvalidArgument, match="Rollouts builds its own"):
        adapter.find_batch_size(trainer_of(tmp_path, Rollouts))


def test_an_optimizer_of_the_users_is_scaled(tmp_path) -> None:
    trainer = trainer_of(tmp_path)
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.01)
    trainer.optimizer = optimizer
    report = adapter.find_batch_size(trainer, **SHORT)
    assert report.base_learning_rate == pytest.approx(0.01)
    adapter.apply(report, trainer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(report.learning_rate)


def test_members_of_a_training_that_only_the_caller_knows_are_options(tmp_path) -> None:
    noted = Noted()
    adapter.max_batch_size(trainer_of(tmp_path), **noted.members, memory_limit="24MiB", at_most=8)
    noted.assert_used()
    with pytest.raises(InvalidArgument, match="expected ranks to be"):
        adapter.find_batch_size(trainer_of(tmp_path), ranks=2, **SHORT)
