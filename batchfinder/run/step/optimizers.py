"""The user's optimizers: their family, what they train, and their state laid out."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from batchfinder.errors import InvalidArgument, NothingToTrain
from batchfinder.rates import OptimizerFamily

__all__ = [
    "ASSUMED_RATE",
    "assumed_optimizers",
    "family_of",
    "group_rates",
    "held_by",
    "inner_optimizer",
    "lay_out",
    "name_of",
    "refuse_sparse",
    "set_rate",
    "state_tensors",
    "still",
    "trained_by",
]


ASSUMED_RATE = 1e-3
_FAMILIES = (
    ("prodigy", OptimizerFamily.PARAMETER_FREE),
    ("dadapt", OptimizerFamily.PARAMETER_FREE),
    ("ldog", OptimizerFamily.PARAMETER_FREE),
    ("shampoo", OptimizerFamily.SHAMPOO),
    ("soap", OptimizerFamily.SHAMPOO),
    ("adafactor", OptimizerFamily.ADAFACTOR),
    ("lion", OptimizerFamily.LION),
    ("muon", OptimizerFamily.MUON),
    ("rmsprop", OptimizerFamily.ADAM),
    ("adagrad", OptimizerFamily.ADAM),
    ("adam", OptimizerFamily.ADAM),
)


def assumed_optimizers(
    parameters: Sequence[torch.nn.Parameter],
    modules: Iterable[torch.nn.Module],
    rate: float | None,
) -> list[torch.optim.Optimizer]:
    """AdamW: what most training uses, and of the common ones the largest in memory.

    SparseAdam for embeddings whose gradients are sparse: AdamW takes none.
    """
    embeddings = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    sparse = {
        id(part.weight)
        for module in modules
        for part in module.modules()
        if isinstance(part, embeddings) and part.sparse
    }
    kinds = (
        (torch.optim.AdamW, [p for p in parameters if id(p) not in sparse]),
        (torch.optim.SparseAdam, [p for p in parameters if id(p) in sparse]),
    )
    return [kind(held, lr=ASSUMED_RATE if rate is None else rate) for kind, held in kinds if held]


def refuse_sparse(optimizers: Iterable[Any], sparse: Iterable[int]) -> None:
    """Of parameters by their ids, those with sparse gradients, in optimizers that were assumed.

    Raises:
        InvalidArgument: where one is held by another one than SparseAdam.
    """
    left = set(sparse)
    for optimizer in optimizers:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if held & left and not isinstance(optimizer, torch.optim.SparseAdam):
            raise InvalidArgument(
                "expected optimizer= for a model with sparse gradients; found none, and AdamW, the "
                "default, does not support them: pass the optimizer of your training, such as "
                "torch.optim.SparseAdam or torch.optim.SGD"
            )


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer inside wrappers that keep it as ``.optimizer``."""
    wrapped = getattr(optimizer, "optimizer", None)
    return inner_optimizer(wrapped) if hasattr(wrapped, "param_groups") else optimizer


def family_of(optimizers: Sequence[Any]) -> OptimizerFamily:
    """The family that decides the learning-rate rule; unknown where they differ."""
    families = {_family(inner_optimizer(optimizer)) for optimizer in optimizers}
    return families.pop() if len(families) == 1 else OptimizerFamily.UNKNOWN


def _family(optimizer: Any) -> OptimizerFamily:
    name = type(optimizer).__name__.lower()
    if "sgd" in name and "schedulefree" not in name:
        moving = any(group.get("momentum") for group in optimizer.param_groups)
        return OptimizerFamily.SGD_MOMENTUM if moving else OptimizerFamily.SGD
    if name == "dog":
        return OptimizerFamily.PARAMETER_FREE
    if name in ("lamb", "lars") or "schedulefree" in name:
        return OptimizerFamily.UNKNOWN
    return next((family for part, family in _FAMILIES if part in name), OptimizerFamily.UNKNOWN)


def name_of(optimizers: Sequence[Any]) -> str:
    """Class names, each once: ``"AdamW"``, ``"Muon + AdamW"``."""
    return " + ".join(dict.fromkeys(type(inner_optimizer(each)).__name__ for each in optimizers))


def trained_by(
    optimizers: Sequence[Any], modules: Sequence[torch.nn.Module]
) -> list[torch.nn.Parameter]:
    """The parameters that the optimizers hold and that are not frozen, each once.

    Raises:
        NothingToTrain: where that is none, or none of them is the model's.
    """
    held = {id(p): p for o in optimizers for group in o.param_groups for p in group["params"]}
    ours = {id(p) for module in modules for p in module.parameters()}
    if not held.keys() & ours:
        raise NothingToTrain(
            "expected an optimizer over this model's parameters; found one over "
            f"{len(held)} other tensors: build it from model.parameters() after moving or "
            "wrapping the model"
        )
    trained = [p for p in held.values() if p.requires_grad]
    if not any(id(p) in ours for p in trained):
        raise NothingToTrain(_frozen(len(held)))
    return trained


def trainable(modules: Sequence[torch.nn.Module]) -> list[torch.nn.Parameter]:
    """The parameters that are not frozen, each once.

    Raises:
        NothingToTrain: where there are none.
    """
    every = {id(p): p for module in modules for p in module.parameters()}
    if not every:
        raise NothingToTrain("expected a model with parameters; found none")
    found = [p for p in every.values() if p.requires_grad]
    if not found:
        raise NothingToTrain(_frozen(len(every)))
    return found


def _frozen(count: int) -> str:
    return (
        f"expected a parameter that is trained; all {count} are frozen: set requires_grad=True "
        "on the part to train"
    )


def check_optimizers(optimizers: Iterable[Any]) -> None:
    """Refuse what is no optimizer, and one that needs a closure.

    Raises:
        InvalidArgument: naming ``train_step`` as the way out.
    """
    for optimizer in optimizers:
        if not hasattr(optimizer, "param_groups") or not hasattr(optimizer, "step"):
            raise InvalidArgument(
                f"expected a torch optimizer; found {type(optimizer).__name__}: a function that "
                "makes one must be called first"
            )
        inner = inner_optimizer(optimizer)
        if isinstance(inner, torch.optim.LBFGS) or _requires_argument(optimizer):
            raise InvalidArgument(
                "expected an optimizer whose step needs no closure; found "
                f"{type(inner).__name__}: pass train_step= that calls optimizer.step(closure) "
                "itself and returns None"
            )


def _requires_argument(optimizer: Any) -> bool:
    """Whether ``step`` wants more than ``self``; asked of the class, since schedulers patch it."""
    try:
        _, *expected = inspect.signature(type(optimizer).step).parameters.values()
    except (AttributeError, TypeError, ValueError):  # of an instance alone, or in C
        return False
    return any(
        each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in expected
    )


def group_rates(optimizers: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Every parameter group that has a learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if group.get("lr") is not None:
                yield group


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Write a group's rate in place where it is a tensor, as capturable optimizers keep it."""
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


@contextmanager
def still(optimizers: Sequence[Any]) -> Iterator[None]:
    """Every learning rate zero inside, so that a step creates state and moves no weight."""
    groups = list(group_rates(optimizers))
    before = [float(group["lr"]) for group in groups]
    try:
        for group in groups:
            set_rate(group, 0.0)
        yield
    finally:
        for group, rate in zip(groups, before, strict=True):
            set_rate(group, rate)


def held_by(
    modules: Sequence[torch.nn.Module],
    parameters: Sequence[torch.nn.Parameter],
    optimizers: Iterable[Any],
) -> Iterator[torch.Tensor]:
    """Every tensor alive between steps, each once."""
    every = [*(p for module in modules for p in module.parameters()), *parameters]
    held = [
        *(buffer for module in modules for buffer in module.buffers()),
        *every,
        *(p.grad for p in every if p.grad is not None),
        *state_tensors(optimizers),
    ]
    yield from {id(tensor): tensor for tensor in held}.values()


def state_tensors(optimizers: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Every tensor in the optimizers' states."""
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from _tensors(state)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def _zero_gradient(parameter: torch.Tensor, sparse_dims: int) -> torch.Tensor:
    """A gradient of zeros; an empty one with ``sparse_dims`` where the true ones are sparse."""
    if not sparse_dims:
        return torch.zeros_like(parameter)
    shape = parameter.shape
    where = torch.empty(sparse_dims, 0, dtype=torch.long, device=parameter.device)
    values = parameter.new_empty((0, *shape[sparse_dims:]))
    return torch.sparse_coo_tensor(where, values, shape, check_invariants=True)


def lay_out(
    optimizers: Sequence[Any],
    parameters: Iterable[torch.nn.Parameter],
    sparse_dims: Mapping[int, int],
) -> None:
    """One step of zero gradients at rate zero, so that each has the state that it has in training.

    ``sparse_dims`` are of those parameters, by their ids, whose gradients are sparse. An optimizer
    that wants more than gradients, such as a closure or gradients per sample, is left without
    state: the first trial lays it out.
    """
    for parameter in parameters:
        parameter.grad = _zero_gradient(parameter, sparse_dims.get(id(parameter), 0))
    with still(optimizers):
        for optimizer in optimizers:
            try:
                optimizer.step()
            except Exception:  # noqa: BLE001  # the trial's own step shows whether it is a mistake
                optimizer.state.clear()
