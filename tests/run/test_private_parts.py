"""What is asked of torch's private parts is there, and what is done where it is not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, RandomSampler

from batchfinder.run.torch_internals import compiler, objects, storages, tensors


def test_a_tensor_counts_what_is_written_to_it() -> None:
    tensor = torch.zeros(3)
    before = tensors.version_of(tensor)
    tensor.add_(1)
    assert tensors.version_of(tensor) == before + 1
    _ = tensor + 1
    assert tensors.version_of(tensor) == before + 1


def test_operators_have_names_and_say_what_they_return() -> None:
    assert tensors.operator_name(torch.ops.aten.add_.Tensor) == "add_"
    assert tensors.makes_a_tensor(torch.ops.aten.add.Tensor)
    assert not tensors.makes_a_tensor(torch.ops.aten.sym_size.int)
    assert tensors.makes_a_tensor(object()), "of one without a schema a tensor is expected"


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
def test_the_parts_of_a_sparse_tensor_are_strided(layout: torch.layout) -> None:
    tensor = torch.eye(3).to_sparse(layout=layout)
    parts = [getattr(tensor, name)() for name in tensors.sparse_parts(layout)]
    assert len(parts) >= 2
    assert {part.layout for part in parts} == {torch.strided}
    assert tensors.sparse_parts(torch.strided) == ()


def test_views_share_a_storage_and_copies_do_not() -> None:
    tensor = torch.zeros(4)
    keys = [storages.storage_key(t.untyped_storage()) for t in (tensor, tensor[1:], tensor.clone())]
    assert keys[0] == keys[1] != keys[2]


def test_the_tables_of_a_module_are_its_own() -> None:
    module = torch.nn.BatchNorm1d(2, affine=False)
    assert set(objects.parameters_of(module)) == {"weight", "bias"}
    objects.buffers_of(module)["running_mean"] = torch.ones(2)
    assert module.running_mean is not None
    assert module.running_mean.tolist() == [1, 1]
    tables = {*objects.TENSOR_TABLES, objects.SUBMODULES}
    assert tables <= objects.OWN_ATTRIBUTES


def test_every_kind_of_hook_is_found() -> None:
    module = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

    def hook(*_: object) -> None: ...

    module.register_forward_hook(hook)
    module.register_forward_pre_hook(hook)
    module.register_full_backward_hook(hook)
    module.register_full_backward_pre_hook(hook)
    module.weight.register_hook(hook)
    module.weight.register_post_accumulate_grad_hook(hook)
    optimizer.register_step_pre_hook(hook)
    optimizer.register_step_post_hook(hook)
    found = [len(list(objects.hooks_of(each))) for each in (module, module.weight, optimizer)]
    assert found == [4, 2, 2]
    assert list(objects.hooks_of(object())) == []


def test_schedulers_show_what_they_are_made_of() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    first, second = (lr_scheduler.ConstantLR(optimizer) for _ in range(2))
    both = lr_scheduler.SequentialLR(optimizer, [first, second], [7])
    assert objects.schedulers_inside(both) == [first, second]
    assert objects.milestones_of(both) == [7]
    assert objects.schedulers_inside(first) == objects.milestones_of(first) == []
    assert vars(both)[objects.LAST_RATES] == both.get_last_lr()


def test_a_scaler_s_own_attributes_are_copied_and_it_is_switch_off() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    copies = objects.scaler_attributes(scaler)
    assert len(copies) == 3
    assert all(hasattr(scaler, name) for name in copies)
    objects.switch_off(scaler)
    assert not scaler.is_enabled()
    assert objects.scaler_attributes(object()) == {}


def test_a_loader_without_workers_has_nothing_to_stop() -> None:
    loader = DataLoader([0, 1])
    batches = iter(loader)
    assert objects.worker_processes(batches) == []
    assert objects.stops_of(loader, batches) == []
    assert objects.kept_iterator(loader) is None
    objects.forget_iterator(loader)


def test_a_kept_iterator_is_forgotten() -> None:
    stopped: list[str] = []
    kept = SimpleNamespace(_shutdown_workers=lambda: stopped.append("kept"))
    loader = SimpleNamespace(_iterator=kept)
    for stop in objects.stops_of(loader, iter(())):
        stop()
    objects.forget_iterator(loader)
    assert (stopped, loader._iterator) == (["kept"], None)


def test_a_sampler_says_whether_it_was_told_a_number() -> None:
    assert objects.draws_all(RandomSampler([0, 1]))
    assert not objects.draws_all(RandomSampler([0, 1], num_samples=1))


def test_a_compiler_that_was_not_loaded_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch._dynamo", "torch._inductor.config"):
        monkeypatch.delitem(compiler.sys.modules, name, raising=False)
    assert not compiler.is_loaded()
    assert compiler.recompile_config() is None
    assert not compiler.uses_cuda_graphs()
    assert compiler.inside_compiled(torch.nn.Identity()) is None
