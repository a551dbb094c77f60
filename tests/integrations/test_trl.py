"""TRL's trainers: ``SFTTrainer`` is searched as it trains, trainers of rollouts are refused."""

from __future__ import annotations

import copy

import pytest
import torch
from framework_cases import PROBE, SHORT, Lines, digest, seed

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

from test_transformers_cases import gpt
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from batchfinder import InvalidArgument, Search, memory_limit
from batchfinder.integrations import transformers as adapter

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
LIMIT = "6MiB"
COMMON = {
    "per_device_train_batch_size": 4,
    "max_steps": 2,
    "learning_rate": 1e-3,
    "report_to": [],
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_strategy": "no",
}


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {chr(code): code for code in range(128)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="\x00"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="\x01", pad_token="\x02")


def sft(folder, size: int = 4, **changed):
    seed(0)
    rows = [row["input_ids"].tolist() for row in Lines(200)]
    given = {**COMMON, "per_device_train_batch_size": size, "max_length": 32, **changed}
    lora = given.pop("peft_config", None)
    return trl.SFTTrainer(
        gpt(),
        args=trl.SFTConfig(str(folder), **given),
        train_dataset=datasets.Dataset.from_dict({"input_ids": rows}),
        processing_class=tokenizer(),
        peft_config=lora,
    )


def test_supervised_fine_tuning_goes_on_as_without_a_search(tmp_path) -> None:
    ends = []
    for searched in (False, True):
        trainer = sft(tmp_path)
        if searched:
            before = copy.deepcopy(trainer._metrics), trainer._total_train_tokens
            report = adapter.find_batch_size(trainer, **SHORT)
            assert (trainer._metrics, trainer._total_train_tokens) == before
            assert report.base_batch_size == 4
        trainer.train()
        ends.append((digest(trainer.model, trainer.optimizer), trainer._metrics))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    "with_lora", [pytest.param(False, marks=pytest.mark.slow), True], ids=["plain", "LoRA"]
)
def test_the_largest_size_of_fine_tuning_trains_and_two_percent_more_does_not(
    tmp_path, with_lora
) -> None:
    changed = {}
    if with_lora:
        peft = pytest.importorskip("peft")
        changed["peft_config"] = peft.LoraConfig(r=4, target_modules=["c_attn"])
    options = {**PROBE, "memory_limit": LIMIT, "search": Search(resolution=0)}
    largest = adapter.max_batch_size(sft(tmp_path, **changed), **options).max_batch_size
    trainer = sft(tmp_path, largest, **changed)
    with memory_limit(LIMIT):
        trainer.train()
    assert trainer.state.global_step == 2
    trainer = sft(tmp_path, largest + max(1, -(-largest // 50)), **changed)
    with memory_limit(LIMIT), pytest.raises(torch.OutOfMemoryError):
        trainer.train()


def test_a_trainer_of_rollouts_is_refused_with_the_way_out(tmp_path) -> None:
    trainer = trl.GRPOTrainer(
        gpt(),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=trl.GRPOConfig(str(tmp_path), num_generations=2, **COMMON),
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a"] * 16}),
        processing_class=tokenizer(),
    )
    with pytest.raises(InvalidArgument, match=r"GRPOTrainer builds its own.*train_step over ready"):
        adapter.find_batch_size(trainer, **SHORT)
