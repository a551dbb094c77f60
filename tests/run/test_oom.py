"""Every form of out of memory comes out right, and every look-alike too."""

from __future__ import annotations

import pytest
import torch
from oom_messages import BUGS, DEVICE_LOST, INDEX_LIMIT, OUT_OF_MEMORY

from batchfinder.run.oom import Verdict, classify, sign_of


@pytest.mark.parametrize("name", OUT_OF_MEMORY)
def test_out_of_memory(name: str) -> None:
    error, certain = OUT_OF_MEMORY[name]
    sign = sign_of(error)
    assert (sign.verdict, sign.certain) == (Verdict.OUT_OF_MEMORY, certain)


@pytest.mark.parametrize("name", INDEX_LIMIT)
def test_index_limits(name: str) -> None:
    sign = sign_of(INDEX_LIMIT[name])
    assert (sign.verdict, sign.certain) == (Verdict.INDEX_LIMIT, False)


@pytest.mark.parametrize("name", DEVICE_LOST)
def test_sticky_errors(name: str) -> None:
    assert classify(DEVICE_LOST[name]) is Verdict.DEVICE_LOST


@pytest.mark.parametrize("name", BUGS)
def test_look_alikes(name: str) -> None:
    assert classify(BUGS[name]) is Verdict.OTHER


def test_the_real_one_of_this_machine() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert classify(caught.value) is Verdict.OUT_OF_MEMORY


def raised(error: BaseException, *, cause: BaseException, hide: bool = False) -> BaseException:
    """``error`` as it is after ``raise error from cause`` (or ``from None``, in its handler)."""
    error.__context__ = cause
    error.__cause__ = None if hide else cause
    error.__suppress_context__ = True
    return error


CAUSE = torch.OutOfMemoryError("CUDA out of memory.")


def test_a_wrapped_error_counts() -> None:
    assert classify(raised(ValueError("layer 3 failed"), cause=CAUSE)) is Verdict.OUT_OF_MEMORY
    deep = raised(KeyError("x"), cause=raised(ValueError("y"), cause=CAUSE))
    assert classify(deep) is Verdict.OUT_OF_MEMORY


def test_an_error_raised_meanwhile_counts() -> None:
    try:
        try:
            raise CAUSE
        except RuntimeError:
            raise ValueError("while handling the other")  # noqa: B904  # the context is what is tested
    except ValueError as error:
        assert classify(error) is Verdict.OUT_OF_MEMORY


def test_a_cause_that_was_hidden_on_purpose_does_not_count() -> None:
    assert classify(raised(ValueError("wrong setting"), cause=CAUSE, hide=True)) is Verdict.OTHER


def test_groups_count_by_what_is_in_them() -> None:
    inner = ExceptionGroup("inner", [KeyError("x"), CAUSE])
    assert classify(ExceptionGroup("outer", [ValueError("y"), inner])) is Verdict.OUT_OF_MEMORY
    assert classify(ExceptionGroup("bugs", [ValueError("y"), KeyError("x")])) is Verdict.OTHER


def test_a_sticky_error_outweighs_the_rest() -> None:
    sticky = RuntimeError("CUDA error: device-side assert triggered")
    assert classify(raised(CAUSE, cause=sticky)) is Verdict.DEVICE_LOST
    assert classify(ExceptionGroup("both", [CAUSE, sticky])) is Verdict.DEVICE_LOST


def test_a_certain_sign_outweighs_an_uncertain_one() -> None:
    unsure = RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR")
    assert sign_of(raised(unsure, cause=CAUSE)).certain


def test_a_circle_of_causes_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert classify(one) is Verdict.OTHER
