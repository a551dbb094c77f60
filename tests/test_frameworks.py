"""Objects of a framework handed to the core: the error names the adapter and its call."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from batchfinder import InvalidArgument, find_batch_size, max_batch_size
from batchfinder.training import training_of


def kind(name: str, module: str, base: type = object, **members: object) -> type:
    return type(name, (base,), {"__module__": module, **members})


def loader() -> DataLoader:
    data = TensorDataset(torch.zeros(8, 4), torch.zeros(8, dtype=torch.long))
    return DataLoader(data, batch_size=2)


def accelerated(name: str, *, synchronizes: bool, steps: int):
    made = kind(name, "accelerate.optimizer")()
    made.gradient_state = SimpleNamespace(sync_gradients=synchronizes, num_steps=steps)
    return made


@pytest.mark.parametrize(
    ("name", "module", "call"),
    [
        ("Trainer", "lightning.pytorch.trainer.trainer", "lightning, find_batch_size(trainer,"),
        ("Trainer", "pytorch_lightning.trainer.trainer", "lightning, find_batch_size(trainer,"),
        ("Trainer", "transformers.trainer", "transformers, find_batch_size(trainer)"),
        ("Accelerator", "accelerate.accelerator", "accelerate, find_batch_size(accelerator,"),
        ("Fabric", "lightning.fabric.fabric", "lightning, find_batch_size(fabric,"),
    ],
)
def test_a_frameworks_own_object_names_its_adapter(name, module, call) -> None:
    thing = kind("Mine", "__main__", kind(name, module))()
    for entry in (find_batch_size, max_batch_size):
        with pytest.raises(InvalidArgument) as caught:
            entry(thing, loader())
        assert f"batchfinder.integrations.{call}" in str(caught.value)


def lightning_module(**members: object) -> nn.Module:
    base = kind("LightningModule", "lightning.pytorch.core.module", nn.Module, training_step=None)
    made = kind("Mine", "__main__", base, **members)()
    made.layer = nn.Linear(4, 2)
    return made


def test_a_lightning_module_without_its_trainer_names_the_adapter() -> None:
    module = lightning_module(training_step=lambda self, batch, index: None)
    with pytest.raises(InvalidArgument, match=r"find_batch_size\(trainer, model"):
        training_of(module, loader())
    training_of(module, loader(), loss_fn=functional.cross_entropy)
    training_of(lightning_module(), loader())  # a plain module with Lightning's base class


def test_a_datamodule_names_the_adapter() -> None:
    datamodule = kind("LightningDataModule", "lightning.pytorch.core.datamodule")()
    with pytest.raises(InvalidArgument, match="datamodule=datamodule"):
        training_of(nn.Linear(4, 2), datamodule)


def test_a_step_that_asks_for_its_trainer_names_the_adapter() -> None:
    def step(model: nn.Module, batch: object) -> torch.Tensor:
        raise RuntimeError("Mine is not attached to a `Trainer`.")

    with pytest.raises(InvalidArgument, match=r"integrations\.lightning"):
        max_batch_size(nn.Linear(4, 2), loader(), train_step=step, memory_limit="16MiB")


@pytest.mark.parametrize("name", ["AcceleratedOptimizer", "DataLoaderShard"])
def test_the_middle_of_an_accumulation_names_the_adapter(name) -> None:
    thing = accelerated(name, synchronizes=False, steps=2)
    members = {"optimizer": thing} if name.endswith("Optimizer") else {"loader": thing}
    with pytest.raises(InvalidArgument, match=r"in the middle of an accumulation.*accelerate"):
        training_of(nn.Linear(4, 2), **{"loader": loader(), **members})


def test_an_optimizer_that_waits_for_its_accumulation_names_the_adapter() -> None:
    waiting = accelerated("AcceleratedOptimizer", synchronizes=True, steps=4)
    with pytest.raises(InvalidArgument, match=r"updates once in 4 steps.*accelerate"):
        training_of(nn.Linear(4, 2), loader(), optimizer=waiting)
    training_of(
        nn.Linear(4, 2),
        loader(),
        optimizer=accelerated("AcceleratedOptimizer", synchronizes=True, steps=1),
    )


def test_what_fabric_set_up_names_the_adapter() -> None:
    fabric = kind("_FabricModule", "lightning.fabric.wrappers", nn.Module)()
    with pytest.raises(InvalidArgument, match=r"find_batch_size\(fabric, model"):
        training_of(fabric, loader())
    training_of(fabric, loader(), backward=lambda loss: None)


def test_a_loss_that_accelerate_has_sent_back_says_what_to_return() -> None:
    def step(model: nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        loss.backward()
        return loss

    with pytest.raises(Exception, match=r"in place of accelerator\.backward\(loss\)"):
        max_batch_size(nn.Linear(4, 2), loader(), train_step=step, memory_limit="16MiB")


ABSENT = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from batchfinder.errors import MissingDependency
try:
    import batchfinder.integrations.{adapter}
except MissingDependency as error:
    assert "pip install" in str(error), error
else:
    raise SystemExit("not refused")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "blocked"),
    [
        ("lightning", ["lightning", "pytorch_lightning"]),
        ("transformers", ["transformers"]),
        ("accelerate", ["accelerate"]),
    ],
)
def test_an_adapter_without_its_framework_says_what_to_install(adapter, blocked) -> None:
    code = ABSENT.format(adapter=adapter, blocked=blocked)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
