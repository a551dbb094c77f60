"""Trainers as people have them: resumed, with columns to drop, LoRA, several calls of ``train``."""

from __future__ import annotations

import pytest
import torch
from framework_cases import PROBE, SHORT, Lines, digest, seed

transformers = pytest.importorskip("transformers")

from accelerate.utils import DistributedType
from test_transformers import Counting, trainer_of
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from batchfinder import InvalidArgument, NothingFits, Search, memory_limit
from batchfinder.integrations import transformers as adapter

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
LIMIT = "6MiB"
FEW = {**PROBE, "at_most": 16}
EXACT = {**PROBE, "memory_limit": LIMIT, "search": Search(resolution=0)}


def gpt() -> GPT2LMHeadModel:
    config = GPT2Config(vocab_size=128, n_positions=32, n_embd=32, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config)


class Ragged(Lines):
    """Lines of several lengths; the longest are the last."""

    def __init__(self) -> None:
        super().__init__(200)
        self.rows = [row[: 8 + 24 * index // 200] for index, row in enumerate(self.rows)]
        self.rows[-1] = self.rows[-1].new_zeros(32)


def padded(samples):
    length = max(len(sample["input_ids"]) for sample in samples)
    rows = [sample["input_ids"] for sample in samples]
    ids = torch.stack([torch.nn.functional.pad(row, (0, length - len(row))) for row in rows])
    return {"input_ids": ids, "labels": ids.clone()}


def made(model, folder, *, dataset=None, **changed):
    seed(0)
    given = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        **changed,
    }
    data = Ragged() if dataset is None else dataset
    return Trainer(model, TrainingArguments(**given), train_dataset=data, data_collator=padded)


def runs(trainer) -> bool:
    """Whether a real ``train()`` gets through under the limit, on the longest samples."""
    longest = max(trainer.train_dataset.rows, key=len)
    trainer.train_dataset.rows = [longest] * len(trainer.train_dataset)
    try:
        with memory_limit(LIMIT):
            trainer.train()
    except torch.OutOfMemoryError:
        return False
    return True


@pytest.mark.parametrize(
    "changed",
    [{}, pytest.param({"gradient_checkpointing": True}, marks=pytest.mark.slow)],
    ids=["plain", "checkpointing"],
)
def test_the_largest_size_trains_on_the_longest_samples_and_two_percent_more_does_not(
    tmp_path, changed
) -> None:
    largest = adapter.max_batch_size(made(gpt(), tmp_path, **changed), **EXACT).max_batch_size
    outcomes = [
        runs(made(gpt(), tmp_path, per_device_train_batch_size=size, **changed))
        for size in (largest, largest + max(1, -(-largest // 50)))
    ]
    assert outcomes == [True, False]


def lora():
    peft = pytest.importorskip("peft")
    seed(0)
    return peft.get_peft_model(gpt(), peft.LoraConfig(r=4, target_modules=["c_attn"]))


def test_the_largest_size_with_lora_trains_and_two_percent_more_does_not(tmp_path) -> None:
    largest = adapter.max_batch_size(made(lora(), tmp_path), **EXACT).max_batch_size
    assert runs(made(lora(), tmp_path, per_device_train_batch_size=largest))
    over = largest + max(1, -(-largest // 50))
    assert not runs(made(lora(), tmp_path, per_device_train_batch_size=over))


def test_lora_trains_afterwards_as_without_a_search(tmp_path) -> None:
    ends = []
    for searched in (False, True):
        trainer = made(lora(), tmp_path, learning_rate=1e-3)
        if searched:
            adapter.find_batch_size(trainer, **SHORT)
        trainer.train()
        ends.append(digest(trainer.model, trainer.optimizer))
    assert ends[0] == ends[1]


def test_a_run_resumed_from_a_checkpoint_goes_on_as_without_a_search(tmp_path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 2}
    made(gpt(), tmp_path, **saving).train()
    ends = []
    for searched in (False, True):
        trainer = made(gpt(), tmp_path, max_steps=4)
        if searched:
            adapter.find_batch_size(trainer, **SHORT)
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert trainer.state.global_step == 4
        ends.append(digest(trainer.model, trainer.optimizer))
    assert ends[0] == ends[1]


def test_a_second_train_after_a_linear_schedule_has_the_users_rate_as_its_base(tmp_path) -> None:
    ends = []
    for searched in (False, True):
        trainer = trainer_of(tmp_path, lr_scheduler_type="linear")
        trainer.train()
        assert trainer.optimizer.param_groups[0]["lr"] == 0
        if searched:
            report = adapter.find_batch_size(trainer, **SHORT)
            assert report.base_learning_rate == pytest.approx(1e-3)
        trainer.train()
        ends.append(digest(trainer.model, trainer.optimizer))
    assert ends[0] == ends[1]


def test_columns_that_the_model_does_not_take_are_dropped_as_in_training(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [row["input_ids"].tolist() for row in Lines(64)]
    columns = {"input_ids": rows, "labels": rows, "length": [32] * 64, "title": ["a"] * 64}
    data = datasets.Dataset.from_dict(columns).with_format("torch")
    found = adapter.max_batch_size(made(gpt(), tmp_path, dataset=data), **FEW)
    assert found.max_batch_size > 4


def test_a_model_built_by_model_init_is_searched_and_built_again(tmp_path) -> None:
    ends = []
    for searched in (False, True):
        seed(0)
        arguments = made(gpt(), tmp_path).args
        trainer = Trainer(
            args=arguments, model_init=gpt, train_dataset=Ragged(), data_collator=padded
        )
        if searched:
            adapter.max_batch_size(trainer, **FEW)
        trainer.train()
        ends.append(digest(trainer.model, trainer.optimizer))
    assert ends[0] == ends[1]


def test_auto_find_batch_size_does_not_take_our_error_for_its_own(tmp_path) -> None:
    trainer = trainer_of(tmp_path, auto_find_batch_size=True)
    with pytest.raises(NothingFits):
        adapter.max_batch_size(trainer, memory_limit="0.3MiB", observe=lambda event: None)
    assert trainer.args.auto_find_batch_size
    assert trainer._train_batch_size == 4
    report = adapter.find_batch_size(trainer, **SHORT)
    assert any("auto_find_batch_size is on" in str(caveat) for caveat in report.caveats)


def test_what_is_counted_in_steps_is_named(tmp_path) -> None:
    trainer = trainer_of(tmp_path, warmup_steps=3)
    report = adapter.find_batch_size(trainer, base_batch_size=1, at_least=8, **SHORT)
    assert any("max_steps, warmup_steps" in str(caveat) for caveat in report.caveats)


def test_the_callback_of_an_experiment_tracker_is_never_started(tmp_path) -> None:
    class Tracker(Counting):
        def on_train_begin(self, *args, **kwargs):
            raise AssertionError("a run was started")

    adapter.max_batch_size(trainer_of(tmp_path, callbacks=[Tracker()]), **FEW)


def test_other_strategies_and_several_gpus_are_refused_with_the_way_out(tmp_path) -> None:
    trainer = trainer_of(tmp_path)
    trainer.accelerator.state.distributed_type = DistributedType.MEGATRON_LM
    with pytest.raises(InvalidArgument, match=r"MEGATRON_LM: search with one device"):
        adapter.max_batch_size(trainer, **PROBE)
    trainer.accelerator.state.distributed_type = DistributedType.NO
    trainer.args._n_gpu = 2
    with pytest.raises(InvalidArgument, match="CUDA_VISIBLE_DEVICES"):
        adapter.max_batch_size(trainer, **PROBE)
    trainer.args._n_gpu = 1
    trainer.is_deepspeed_enabled = True
    with pytest.raises(InvalidArgument, match="is_deepspeed_enabled"):
        adapter.max_batch_size(trainer, **PROBE)


def test_every_private_name_that_is_used_exists(tmp_path) -> None:
    trainer = trainer_of(tmp_path)
    assert trainer._train_batch_size == 4
    assert callable(trainer._prepare_inputs)
    assert trainer.callback_handler.callbacks
