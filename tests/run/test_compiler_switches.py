"""What the compiler keeps once per process comes back, in whatever order threads leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch._dynamo
from torch._dynamo import eval_frame

from batchfinder import memory_limit
from batchfinder.run.switches import compiled_again, uncompiled, wider_recompile_limit


def stance() -> str:
    return eval_frame._stance.stance


@pytest.fixture(autouse=True)
def stance_as_before() -> Iterator[None]:
    before = eval_frame._stance
    yield
    found, eval_frame._stance = eval_frame._stance, before
    assert found == before


def interleaved(
    make: Callable[[], AbstractContextManager[Any]], between: Callable[[], Any] = lambda: None
) -> Any:
    """Two threads enter; the first to come is the first to go, and then ``between`` is asked."""
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    errors: list[BaseException] = []
    asked: list[Any] = []

    def first() -> None:
        with make():
            first_in.set()
            assert second_in.wait(10)
        first_out.set()

    def second() -> None:
        assert first_in.wait(10)
        with make():
            second_in.set()
            assert first_out.wait(10)
            asked.append(between())

    def told(run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 (raised again by the thread that waits)
            errors.append(error)

    threads = [threading.Thread(target=told, args=(each,)) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return asked[0]


@pytest.mark.parametrize("make", [uncompiled, lambda: memory_limit("8MiB")])
def test_compiled_code_runs_compiled_after_interleaved_threads(make) -> None:
    assert interleaved(make, stance) == "force_eager"
    assert stance() == "default"


def test_a_thread_that_counts_keeps_compiled_code_as_it_was_written() -> None:
    with uncompiled():
        with compiled_again():
            assert stance() == "default"
            assert interleaved(uncompiled, stance) == "force_eager"
            assert stance() == "default"
        assert stance() == "force_eager"


def test_the_user_s_own_stance_holds_where_nothing_is_counted() -> None:
    with torch.compiler.set_stance("eager_on_recompile"):
        with uncompiled():
            assert stance() == "force_eager"
            with compiled_again():
                assert stance() == "eager_on_recompile"
        assert stance() == "eager_on_recompile"


def test_contexts_of_one_thread_may_close_in_any_order() -> None:
    first, second = uncompiled(), uncompiled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert stance() == "force_eager"
    second.__exit__(None, None, None)
    assert stance() == "default"


def test_the_recompile_limit_is_the_user_s_after_interleaved_threads() -> None:
    own = torch._dynamo.config.recompile_limit
    now = interleaved(
        lambda: wider_recompile_limit(own + 5), lambda: torch._dynamo.config.recompile_limit
    )
    assert now == own + 5
    assert torch._dynamo.config.recompile_limit == own
    with wider_recompile_limit(own - 1):
        assert torch._dynamo.config.recompile_limit == own
