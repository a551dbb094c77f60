"""Trainings of every kind that is supported, each with the steps that its user takes by hand."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from batchfinder import Training

__all__ = ["ZOO", "Kept", "states"]

ROWS = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
LABELS = (ROWS @ torch.randn(8, 3, generator=torch.Generator().manual_seed(1))).argmax(1)
DATA = TensorDataset(ROWS, LABELS)
BATCH = (ROWS[:8], LABELS[:8])


@dataclass
class Kept:
    """A training, all that belongs to it, and one step of the user's own."""

    training: Training
    own_step: Callable[[], torch.Tensor]
    holders: list[Any] = field(default_factory=list)
    """Whatever has a ``state_dict``."""
    graphs: list[int] = field(default_factory=lambda: [0, 0])
    """Graphs compiled, and how often one ran."""
    has_noise: bool = True
    """Whether the gradients of single batches can be seen."""


def compiling(graphs: list[int]) -> Callable[..., Any]:
    """A backend of ``torch.compile`` that counts."""

    def backend(module: Any, example: Any) -> Any:
        graphs[0] += 1

        def run(*given: Any) -> Any:
            graphs[1] += 1
            return module.forward(*given)

        return run

    return backend


def network(width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


def loader(batch_size: int = 8, **more: Any) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(2)
    return DataLoader(DATA, batch_size, shuffle=True, generator=generator, **more)


def loss_of(model: Any, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def stepped(loss: Callable[[], torch.Tensor], optimizers: list[Any]) -> Callable[[], torch.Tensor]:
    def own_step() -> torch.Tensor:
        for optimizer in optimizers:
            optimizer.zero_grad()
        value = loss()
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
        return value.detach()

    return own_step


def of_loss(model: Any, optimizers: list[Any], **members: Any) -> Kept:
    """A model, a loader of (input, class) pairs and cross-entropy."""
    members = {"loss_fn": nn.functional.cross_entropy, **members}
    training = Training(model, loader(), optimizer=optimizers, **members)
    loss_fn = members["loss_fn"]
    own = stepped(lambda: loss_fn(model(BATCH[0]), BATCH[1]), optimizers)
    return Kept(training, own, [model, *optimizers])


def plain() -> Kept:
    model = network()
    return of_loss(model, [torch.optim.AdamW(model.parameters())])


def batch_norm() -> Kept:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), nn.Linear(16, 3))
    return of_loss(model, [torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)])


def compiled_model() -> Kept:
    graphs = [0, 0]
    inner = network()
    model = torch.compile(inner, backend=compiling(graphs), fullgraph=True)
    kept = of_loss(model, [torch.optim.AdamW(inner.parameters())])
    return Kept(kept.training, kept.own_step, kept.holders, graphs)


def compiled_loss() -> Kept:
    graphs = [0, 0]
    model = network()

    @torch.compile(backend=compiling(graphs), fullgraph=True)
    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output, target)

    kept = of_loss(model, [torch.optim.AdamW(model.parameters())], loss_fn=loss)
    return Kept(kept.training, kept.own_step, kept.holders, graphs)


def sparse() -> Kept:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.head = nn.Embedding(40, 4, sparse=True), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rows(x).mean(1))

    torch.manual_seed(0)
    model = Table()
    optimizers = [
        torch.optim.SparseAdam(list(model.rows.parameters()), lr=0.01),
        torch.optim.Adam(model.head.parameters()),
    ]
    words = torch.randint(40, (96, 5), generator=torch.Generator().manual_seed(3))
    training = Training(
        model,
        DataLoader(TensorDataset(words, LABELS), 8),
        loss_fn=nn.functional.cross_entropy,
        optimizer=optimizers,
    )
    own = stepped(lambda: loss_of(model, (words[:8], LABELS[:8])), optimizers)
    return Kept(training, own, [model, *optimizers])


def in_backward() -> Kept:
    model = network()
    optimizers = {p: torch.optim.Adam([p], 0.01, foreach=False) for p in model.parameters()}

    def hook(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(hook)

    def own_step() -> torch.Tensor:
        loss = loss_of(model, BATCH)
        loss.backward()
        return loss.detach()

    training = Training(model, loader(), loss_fn=nn.functional.cross_entropy)
    holders = [model, *optimizers.values()]
    return Kept(training, own_step, holders, has_noise=False)


def several_rates() -> Kept:
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": 1e-4},
        {"params": model[2].parameters(), "lr": 1.6e-3},
    ]
    return of_loss(model, [torch.optim.AdamW(groups)])


def wrapped() -> Kept:
    """Averaged weights and a teacher that the step reaches through its closure."""
    model = network()
    teacher = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    average = torch.optim.swa_utils.AveragedModel(model)

    def step(module: Any, batch: Any) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.no_grad():
            soft = teacher(batch[0]).softmax(1)
        loss = nn.functional.cross_entropy(module(batch[0]), soft)
        loss.backward()
        optimizer.step()
        average.update_parameters(module)
        return loss.detach()

    training = Training(model, loader(), train_step=step, optimizer=optimizer)
    holders = [model, optimizer, average, teacher]
    return Kept(training, lambda: step(model, BATCH), holders, has_noise=False)


class PerSample(torch.optim.SGD):
    """Wants the gradient of every sample, as private training does."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if not hasattr(parameter, "grad_sample"):
                    raise ValueError("gradients of single samples are missing")
                del parameter.grad_sample
        super().step(closure)


def per_sample() -> Kept:
    model = network()
    optimizer = PerSample(model.parameters(), 0.1)

    def step(module: Any, batch: Any) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        for parameter in module.parameters():
            parameter.grad_sample = parameter.grad
        optimizer.step()
        return loss.detach()

    training = Training(model, loader(), train_step=step, optimizer=optimizer)
    return Kept(
        training,
        lambda: step(model, BATCH),
        [model, optimizer],
        has_noise=False,
    )


def ready_batches() -> Kept:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 3)

        def forward(self, x: Any, mask: Any, labels: Any) -> torch.Tensor:
            return nn.functional.cross_entropy(self.linear(x * mask[0]), labels)

    torch.manual_seed(0)
    model, mask = Masked(), torch.ones(8, 8).tril(7)
    batches = [
        {"x": ROWS[at : at + 8], "mask": mask, "labels": LABELS[at : at + 8]}
        for at in range(0, 96, 8)
    ]
    optimizer = torch.optim.Adam(model.parameters())
    own = stepped(lambda: model(**batches[0]), [optimizer])
    return Kept(Training(model, batches, optimizer=optimizer), own, [model, optimizer])


def detection() -> Kept:
    class Pictures(Dataset[Any]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> Any:
            generator = torch.Generator().manual_seed(index)
            picture = torch.rand(3, 6 + index % 3, 6 + index % 2, generator=generator)
            return picture, {"labels": torch.tensor([index % 3])}

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, images: Any, targets: Any = None) -> Any:
            pooled = torch.stack([image.mean((1, 2)) for image in images])
            labels = torch.cat([each["labels"] for each in targets])
            return {"loss": nn.functional.cross_entropy(self.linear(pooled), labels)}

    torch.manual_seed(0)
    model = Detector()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loaded = DataLoader(Pictures(), 4, collate_fn=lambda rows: tuple(zip(*rows, strict=True)))
    batch = next(iter(loaded))
    own = stepped(lambda: model(*batch)["loss"], [optimizer])
    return Kept(Training(model, loaded, optimizer=optimizer), own, [model, optimizer])


def graphs_of_nodes() -> Kept:
    @dataclass
    class Nodes:
        x: torch.Tensor
        index: torch.Tensor
        y: torch.Tensor
        num_graphs: int

        def to(self, device: Any) -> Nodes:
            return Nodes(self.x.to(device), self.index.to(device), self.y.to(device), len(self.y))

    def joined(rows: list[Any]) -> Nodes:
        nodes = [torch.full((2 + label % 3, 4), float(label)) for _, label in rows]
        place = [torch.full((len(each),), at) for at, each in enumerate(nodes)]
        labels = torch.stack([label for _, label in rows])
        return Nodes(torch.cat(nodes), torch.cat(place), labels, len(rows))

    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.Adam(model.parameters())

    def step(module: Any, batch: Nodes) -> torch.Tensor:
        pooled = torch.zeros(batch.num_graphs, 3).index_add(0, batch.index, module(batch.x))
        return nn.functional.cross_entropy(pooled, batch.y)

    training = Training(
        model, DataLoader(DATA, 8, collate_fn=joined), train_step=step, optimizer=optimizer
    )
    batch = joined([DATA[index] for index in range(8)])
    own = stepped(lambda: step(model, batch), [optimizer])
    return Kept(training, own, [model, optimizer])


def nested_rows() -> Kept:
    def nested(rows: list[Any]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its interface may change
            parts = torch.nested.nested_tensor([row.repeat(1 + int(y), 1) for row, y in rows])
        return parts, torch.stack([y for _, y in rows])

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nested.to_padded_tensor(self.linear(x), 0.0).mean(1)

    torch.manual_seed(0)
    model = Mean()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    training = Training(
        model,
        DataLoader(DATA, 8, collate_fn=nested),
        loss_fn=nn.functional.cross_entropy,
        optimizer=optimizer,
    )
    batch = nested([DATA[index] for index in range(8)])
    return Kept(training, stepped(lambda: loss_of(model, batch), [optimizer]), [model, optimizer])


def stream() -> Kept:
    class Rows(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([DATA[index] for index in range(96)])

    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    training = Training(
        model, DataLoader(Rows(), 8), loss_fn=nn.functional.cross_entropy, optimizer=optimizer
    )
    return Kept(training, stepped(lambda: loss_of(model, BATCH), [optimizer]), [model, optimizer])


def carried() -> Kept:
    """A queue with a pointer, and a buffer that the first batch resizes."""

    class Queue(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 3)
            self.register_buffer("queue", torch.zeros(64, 3))
            self.register_buffer("place", torch.zeros(1, dtype=torch.long))
            self.register_buffer("low", torch.tensor([]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output = self.linear(x)
            with torch.no_grad():
                rows = (self.place + torch.arange(len(x))) % 64
                self.queue[rows] = output.detach()
                self.place.copy_((self.place + len(x)) % 64)
                self.low.resize_(3).copy_(output.detach().amin(0))
            return output + self.queue.mean()

    torch.manual_seed(0)
    model = Queue()
    return of_loss(model, [torch.optim.SGD(model.parameters(), 0.1)])


def scheduled() -> Kept:
    """A step that advances a schedule and scales its loss by itself."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, (k + 1) / 100))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)

    def step(module: Any, batch: Any) -> float:
        optimizer.zero_grad()
        loss = loss_of(module, batch)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        return loss.item()

    training = Training(model, loader(), train_step=step, optimizer=optimizer)
    return Kept(
        training,
        lambda: torch.tensor(step(model, BATCH)),
        [model, optimizer, schedule, scaler],
        has_noise=False,
    )


ZOO: dict[str, Callable[[], Kept]] = {
    make.__name__: make
    for make in (
        plain,
        batch_norm,
        compiled_model,
        compiled_loss,
        sparse,
        in_backward,
        several_rates,
        wrapped,
        per_sample,
        ready_batches,
        detection,
        graphs_of_nodes,
        nested_rows,
        stream,
        carried,
        scheduled,
    )
}


def states(kept: Kept) -> list[Any]:
    """Deep copies of every state, to be compared bit for bit."""
    return [copy.deepcopy(holder.state_dict()) for holder in kept.holders]
