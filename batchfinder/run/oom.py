"""What out of memory looks like, everywhere; and what only looks like it.

Types come first, then messages, through whatever wraps them. Each message names the thread or
source file where it was seen. Anything not listed is the user's bug and is raised untouched.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch

from batchfinder.errors import PeerFailed, RanksNotTogether

__all__ = ["Sign", "Verdict", "classify", "is_about_size", "sign_of"]


class Verdict(Enum):
    """What an exception says about the size that was tried."""

    OUT_OF_MEMORY = "out of memory"
    INDEX_LIMIT = "a kernel cannot address this many elements, regardless of memory"
    DEVICE_LOST = "the device is in an unrecoverable error state"
    OTHER = "an error that is not about memory"


@dataclass(frozen=True)
class Sign:
    """What was recognised. One that is not ``certain`` may also be a plain mistake.

    Such a one counts only at a size above 1: a mistake is made at every size.
    """

    verdict: Verdict
    certain: bool = True


def classify(error: BaseException) -> Verdict:
    """What ``error`` says, or anything that it wraps, was caused by, or groups.

    A sticky device error anywhere outweighs all else, since the process is lost.
    """
    return sign_of(error).verdict


def sign_of(error: BaseException) -> Sign:
    """Like ``classify``, with how sure one can be."""
    signs = [_own_sign(each) for each in _chain(error)]
    for verdict in (Verdict.DEVICE_LOST, Verdict.OUT_OF_MEMORY, Verdict.INDEX_LIMIT):
        found = [sign for sign in signs if sign.verdict is verdict]
        if found:
            return max(found, key=lambda sign: sign.certain)
    return Sign(Verdict.OTHER)


def is_about_size(sign: Sign, size: int) -> bool:
    """Whether a smaller batch may do. A message that may be a mistake is one at size 1."""
    about = sign.verdict in (Verdict.OUT_OF_MEMORY, Verdict.INDEX_LIMIT)
    return about and (sign.certain or size > 1)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that stand behind it, each once."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending.append(each.__cause__)
        if not each.__suppress_context__:
            pending.append(each.__context__)
        if isinstance(each, BaseExceptionGroup):
            pending.extend(each.exceptions)


def _own_sign(error: BaseException) -> Sign:
    if isinstance(error, PeerFailed | RanksNotTogether):  # which quote another rank's error
        return Sign(Verdict.OTHER)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Sign(Verdict.OUT_OF_MEMORY)
    if isinstance(error, OSError):
        full = error.errno == errno.ENOMEM
        return Sign(Verdict.OUT_OF_MEMORY if full else Verdict.OTHER)
    if not isinstance(error, RuntimeError) or isinstance(error, NotImplementedError):
        return Sign(Verdict.OTHER)  # an IndexError or KeyError whose text speaks of memory
    text = " ".join(map(str, error.args))
    return next((sign for pattern, sign in _MESSAGES if pattern.search(text)), Sign(Verdict.OTHER))


def _message(
    pattern: str, verdict: Verdict, *, certain: bool = True
) -> tuple[re.Pattern[str], Sign]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL), Sign(verdict, certain)


_OUT, _INDEX, _LOST = Verdict.OUT_OF_MEMORY, Verdict.INDEX_LIMIT, Verdict.DEVICE_LOST

# Looked through in this order. "#n" is pytorch/pytorch unless another repository is named.
_MESSAGES: tuple[tuple[re.Pattern[str], Sign], ...] = (
    # Sticky: every later call on the device fails. Note the "t" at the end: the advice "to enable
    # device-side assertions" stands under every CUDA error, out of memory too.
    _message(r"device-side assert triggered|hipErrorAssert", _LOST),
    _message(r"illegal memory access was encountered", _LOST),  # lm-evaluation-harness#394
    _message(r"unspecified launch failure|misaligned address|illegal instruction", _LOST),
    _message(r"hardware stack error|uncorrectable (ecc|nvlink) error|gpu is lost", _LOST),
    _message(r"ERROR_DEVICE_LOST|hipErrorIllegalAddress", _LOST),
    # A kernel's own scarce memory: a setting of that kernel, not of the batch (Triton's
    # OutOfResources).
    _message(r"out of resources?: (shared memory|registers|threads)", Verdict.OTHER),
    # The caching allocators: "CUDA out of memory. Tried to allocate" (#13751), HIP, XPU
    # (intel/intel-extension-for-pytorch#629), "MPS backend out of memory"
    # (huggingface/accelerate#4226), NPU, HPU; the driver: "CUDA error: out of memory",
    # "cuda runtime error (2) : out of memory" (#465), "CUDA driver error"
    # (deepmodeling/deepmd-kit#3857); NCCL: "Cuda failure 2 'out of memory'"
    # (PKU-YuanGroup/Open-Sora-Plan#386).
    _message(
        r"\b(cuda|hip|xpu|mps|npu|hpu|mlu|musa|cpu|gpu|device|privateuse\w*)\b"
        r"[^\n]{0,80}?\bout of memory\b",
        _OUT,
    ),
    _message(r"OutOfMemoryError: |\bout of device memory\b", _OUT),
    # XPU's runtime: #177714, intel/intel-extension-for-pytorch#838
    _message(r"ERROR_OUT_OF_(DEVICE_MEMORY|HOST_MEMORY|RESOURCES)", _OUT),
    # Libraries: workspaces and handles are allocated beside the caching allocator. cuBLAS:
    # DeepMotionAIResearch/DenseMatchingBenchmark#20; cuDNN: #20123; the others' names are those
    # of their headers.
    _message(r"(CU|HIP|ROC)(BLAS|SPARSE|SOLVER)_STATUS_ALLOC_FAILED", _OUT),
    _message(r"CUDNN_STATUS_ALLOC_FAILED|miopenStatusAllocFailed", _OUT),
    _message(r"CUDNN_STATUS_INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION_FAILED", _OUT),
    _message(r"CU(FFT|RAND)(_STATUS)?_ALLOC(ATION)?_FAILED", _OUT),
    _message(r"rocblas_status_memory_error|hipErrorOutOfMemory", _OUT),
    # On a MIG slice the allocator asks NVML while it writes its message, and trips over the
    # answer (huggingface/accelerate#3803); other checks of it fail under pressure
    # (mberr/torch-max-mem#45).
    _message(r"INTERNAL ASSERT FAILED.{0,200}CUDACachingAllocator", _OUT),
    _message(r"Invalid buffer size: [\d.]+ ?[KMGT]?i?B", _OUT),  # MPS: mberr/torch-max-mem#14
    # The CPU: "DefaultCPUAllocator: can't allocate memory" (ymcui/Chinese-LLaMA-Alpaca#18), "not
    # enough memory" on Windows (lllyasviel/Fooocus#237); "std::bad_alloc" from other C++.
    _message(r"CPUAllocator: (can't allocate memory|not enough memory)", _OUT),
    _message(r"std::bad_alloc|\[Errno 12\] Cannot allocate memory", _OUT),
    # cuDNN found no algorithm whose workspace fits, or has none for this configuration: "cuDNN
    # error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous
    # input", "Unable to find a valid cuDNN algorithm" (TQTQliu/MVSGaussian#18), "FIND was unable
    # to find an engine" (facebookresearch/vggt#183).
    _message(r"CUDNN_STATUS_NOT_SUPPORTED|valid cuDNN algorithm", _OUT, certain=False),
    _message(r"unable to find an engine|no valid execution plans", _OUT, certain=False),
    # Handles that cannot be created are short of memory as a rule
    # (EleutherAI/lm-evaluation-harness#1689, JIA-Lab-research/UVTR#13), not always.
    _message(r"CUBLAS_STATUS_NOT_INITIALIZED.{0,40}Create", _OUT, certain=False),
    _message(r"CUSOLVER_STATUS_(INTERNAL_ERROR|NOT_INITIALIZED).{0,40}Create", _OUT, certain=False),
    _message(r"CUFFT_INTERNAL_ERROR", _OUT, certain=False),  # #119420: on low free memory
    _message(r"CUDA driver error: device not ready", _OUT, certain=False),  # torch-max-mem#45
    # 32-bit indices and grid sizes: "canUse32BitIndexMath" (#80020, #113833), "more than INT_MAX
    # elements" (#51871), "integer out of range" (#155225), a grid above 65 535 blocks
    # (Lightning-AI/pytorch-lightning#20614).
    _message(r"canUse32BitIndexMath|\bINT_MAX\b|\bint32_?(t )?max\b", _INDEX, certain=False),
    _message(r"integer out of range|too many elements", _INDEX, certain=False),
    _message(r"invalid configuration argument|hipErrorInvalidConfiguration", _INDEX, certain=False),
    _message(r"storage size calculation overflowed", _INDEX, certain=False),
)
