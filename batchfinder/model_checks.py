"""What must not be handed over: models that cannot be trained, objects that need their adapter.

Handed over without its adapter, such an object trains in another way than the framework would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from batchfinder.errors import InvalidArgument

__all__ = ["check_model", "refuse_frameworks", "refuse_inference"]


def check_model(modules: Sequence[Any]) -> None:
    """Refuse lazy modules that have seen no batch, and weights that hold no data.

    Raises:
        InvalidArgument: saying what to do first.
    """
    for module in modules:
        if not isinstance(module, torch.nn.Module):
            raise InvalidArgument(
                "expected a torch.nn.Module (or a list or dict of them) as the model; "
                f"found {type(module).__name__}: pass the module itself"
            )
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if torch.nn.parameter.is_lazy(tensor):
                raise InvalidArgument(
                    f"expected parameters with shapes; {name!r} belongs to a lazy module that has "
                    "seen no batch: run one batch through the model, then build the optimizer"
                )
            if tensor.is_meta:
                raise InvalidArgument(
                    f"expected parameters that hold data; {name!r} is on the meta device: "
                    "materialize the model with .to_empty(device=...) and load its weights"
                )


def refuse_inference(modules: Iterable[torch.nn.Module]) -> None:
    """Refuse tensors that can have no gradient.

    Raises:
        InvalidArgument: naming the first of them.
    """
    for module in modules:
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_inference():
                raise InvalidArgument(
                    f"expected a model that can be trained; {name!r} was made under "
                    "torch.inference_mode(): build or load the model outside of it"
                )


_LIGHTNING = ("lightning", "pytorch_lightning")
_FABRIC = ("lightning", "lightning_fabric")


def refuse_frameworks(
    model: Any, loader: Any, optimizers: Sequence[Any], *, has_step: bool, has_backward: bool
) -> None:
    """Refuse what only an adapter can train as its framework does.

    Args:
        model: what was passed as the model.
        loader: what was passed as the loader.
        optimizers: the optimizers that were passed.
        has_step: whether a ``loss_fn`` or a ``train_step`` says how ``model`` is trained.
        has_backward: whether the backward pass is the caller's own.

    Raises:
        InvalidArgument: with the import and the call of the adapter.
    """
    if _is(model, "Trainer", *_LIGHTNING):
        raise _refused("a model", "a Lightning Trainer", "lightning", "trainer, model, ...")
    if _is(model, "Trainer", "transformers"):
        found = f"{type(model).__name__}, a Transformers Trainer"
        raise _refused("a model", found, "transformers", "trainer")
    if _is(model, "Accelerator", "accelerate"):
        call = "accelerator, model, optimizer, loader, loss_fn=..."
        raise _refused("a model", "an Accelerator", "accelerate", call)
    if _is(model, "Fabric", *_FABRIC):
        call = "fabric, model, optimizer, loader, loss_fn=..."
        raise _refused("a model", "a Fabric", "lightning", call)
    if _is(loader, "LightningDataModule", *_LIGHTNING):
        call = "trainer, model, datamodule=datamodule"
        raise _refused("a loader", "a LightningDataModule", "lightning", call)
    if _is(model, "LightningModule", *_LIGHTNING) and not has_step and _has_training_step(model):
        found = f"{type(model).__name__}, a LightningModule, whose training_step needs its Trainer"
        way = ", or pass loss_fn= or train_step= to train it without one"
        raise _refused("a training step", found, "lightning", "trainer, model, ...", way)
    fabric = [model] if _is(model, "_FabricModule", *_FABRIC) else []
    fabric += [each for each in optimizers if _is(each, "_FabricOptimizer", *_FABRIC)]
    if fabric and not has_backward:
        found = f"{type(fabric[0]).__name__}, whose precision and backward pass are Fabric's own"
        call = "fabric, model, optimizer, loader, loss_fn=..."
        raise _refused("a module and an optimizer of torch", found, "lightning", call)
    _refuse_accumulation(loader, optimizers)


def _refuse_accumulation(loader: Any, optimizers: Sequence[Any]) -> None:
    """An accelerated optimizer updates at the end of an accumulation only."""
    accelerated = [each for each in optimizers if _is(each, "AcceleratedOptimizer", "accelerate")]
    loaders = ("DataLoaderShard", "DataLoaderDispatcher")
    loading = [loader] if any(_is(loader, name, "accelerate") for name in loaders) else []
    parts = [*loading, *accelerated]
    between = [each for each in parts if not each.gradient_state.sync_gradients]
    steps = max((each.gradient_state.num_steps for each in accelerated), default=1)
    call = "accelerator, model, optimizer, loader, loss_fn=..."
    if between:
        found = f"{type(between[0]).__name__} in the middle of an accumulation"
        raise _refused("an optimizer that updates at every step", found, "accelerate", call)
    if steps > 1:
        found = f"{type(accelerated[0]).__name__}, which updates once in {steps} steps"
        raise _refused("an optimizer that updates at every step", found, "accelerate", call)


def _has_training_step(module: Any) -> bool:
    """Whether the user's class has a ``training_step``, and not just Lightning's base class."""
    owner = next((kind for kind in type(module).__mro__ if "training_step" in vars(kind)), None)
    return owner is not None and owner.__name__ != "LightningModule"


def _is(thing: Any, name: str, *roots: str) -> bool:
    return any(
        kind.__name__ == name and kind.__module__.partition(".")[0] in roots
        for kind in type(thing).__mro__
    )


def _refused(expected: str, found: str, module: str, call: str, other: str = "") -> InvalidArgument:
    return InvalidArgument(
        f"expected {expected}; found {found}: use batchfinder.integrations.{module}, "
        f"find_batch_size({call}) or max_batch_size with the same arguments{other}"
    )
