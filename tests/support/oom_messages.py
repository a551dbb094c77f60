"""Messages as they were reported, by what they mean; sources stand in ``batchfinder.run.oom``."""

from __future__ import annotations

import errno

import torch

ADVICE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the "
    "stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
ACCELERATOR = getattr(torch, "AcceleratorError", RuntimeError)

# name: (error, whether it can be nothing else)
OUT_OF_MEMORY: dict[str, tuple[BaseException, bool]] = {
    "caching allocator, typed": (
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.65 "
            "GiB of which 1.12 GiB is free."
        ),
        True,
    ),
    "caching allocator before torch 1.13": (
        RuntimeError(
            "CUDA out of memory. Tried to allocate 92.00 MiB (GPU 0; 1.96 GiB total capacity; "
            "1.46 GiB already allocated; 16.38 MiB free; 1.51 GiB reserved in total by PyTorch)"
        ),
        True,
    ),
    "driver, outside the allocator": (RuntimeError("CUDA error: out of memory" + ADVICE), True),
    "driver, typed since torch 2.8": (ACCELERATOR("CUDA error: out of memory" + ADVICE), True),
    "driver interface": (RuntimeError("CUDA driver error: out of memory"), True),
    "runtime of old": (
        RuntimeError("cuda runtime error (2) : out of memory at /tmp/THC/generic/THCStorage.cu:65"),
        True,
    ),
    "cuBLAS handle": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        True,
    ),
    "cuBLAS not initialized": (
        RuntimeError(
            "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"
        ),
        False,
    ),
    "cuDNN not supported": (
        RuntimeError(
            "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a "
            "non-contiguous input."
        ),
        False,
    ),
    "cuDNN allocation": (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
    "cuDNN 9 allocation": (
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        True,
    ),
    "cuDNN no algorithm": (
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        False,
    ),
    "cuDNN no engine": (
        RuntimeError("GET was unable to find an engine to execute this computation"),
        False,
    ),
    "cuDNN no engine, benchmarking": (
        RuntimeError("FIND was unable to find an engine to execute this computation"),
        False,
    ),
    "cuSOLVER": (
        RuntimeError(
            "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"
        ),
        True,
    ),
    "cuSOLVER handle": (
        RuntimeError(
            "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling "
            "`cusolverDnCreate(handle)`"
        ),
        False,
    ),
    "cuFFT": (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), True),
    "cuFFT on low memory": (RuntimeError("cuFFT error: CUFFT_INTERNAL_ERROR"), False),
    "MIG: the allocator trips over NVML": (
        RuntimeError(
            'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/opt/pytorch/c10/cuda/'
            'CUDACachingAllocator.cpp":1016, please report a bug to PyTorch.'
        ),
        True,
    ),
    "the allocator's own check under pressure": (
        RuntimeError(
            '!handles_.at(i) INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/'
            'CUDACachingAllocator.cpp":430, please report a bug to PyTorch.'
        ),
        True,
    ),
    "the driver under pressure": (RuntimeError("CUDA driver error: device not ready"), False),
    "NCCL": (
        RuntimeError(
            "NCCL error in: ../torch/csrc/distributed/c10d/NCCLUtils.hpp:275, unhandled cuda "
            "error\nLast error:\nCuda failure 2 'out of memory'"
        ),
        True,
    ),
    "HIP": (RuntimeError("HIP out of memory. Tried to allocate 256.00 MiB."), True),
    "XPU": (RuntimeError("XPU out of memory. Tried to allocate 1.00 GiB (GPU 0; 15.56 GiB)"), True),
    "XPU runtime": (
        RuntimeError(
            "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"
        ),
        True,
    ),
    "XPU resources": (
        RuntimeError("UR backend failed. UR backend returns:40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)"),
        True,
    ),
    "MPS": (
        RuntimeError(
            "MPS backend out of memory (MPS allocated: 17.88 GB, other allocations: 128.00 KB, "
            "max allowed: 18.13 GB). Tried to allocate 256.00 MB on private pool."
        ),
        True,
    ),
    "MPS, one buffer": (RuntimeError("Invalid buffer size: 24.00 GiB"), True),
    "CPU allocator on Linux": (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate "
            "memory)"
        ),
        True,
    ),
    "CPU allocator on Windows": (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you "
            "tried to allocate 31850496000 bytes."
        ),
        True,
    ),
    "C++": (RuntimeError("std::bad_alloc"), True),
    "Python": (MemoryError(), True),
    "NumPy": (
        MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"),
        True,
    ),
    "the system": (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
    "two arguments": (RuntimeError("in layer 3", "CUDA out of memory. Tried to allocate"), True),
    "TorchScript": (
        RuntimeError(
            "The following operation failed in the TorchScript interpreter.\nTraceback of "
            "TorchScript (most recent call last):\nRuntimeError: CUDA out of memory. Tried"
        ),
        True,
    ),
    "another process's, as text": (
        RuntimeError(
            "Caught OutOfMemoryError in replica 1 on device 1.\ntorch.OutOfMemoryError: x"
        ),
        True,
    ),
}

INDEX_LIMIT: dict[str, BaseException] = {
    "elements": RuntimeError(
        "nonzero is not supported for tensors with more than INT_MAX elements,   file a support "
        "request"
    ),
    "index arithmetic": RuntimeError(
        "Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true, but got "
        "false."
    ),
    "MPS index arithmetic": RuntimeError("value cannot be cast: integer out of range"),
    "grid": RuntimeError("CUDA error: invalid configuration argument" + ADVICE),
    "grid, typed": ACCELERATOR("CUDA error: invalid configuration argument" + ADVICE),
    "accessor": RuntimeError(
        "numel needs to be smaller than int32_t max; otherwise, please use packed_accessor64"
    ),
    "size": RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904, 8]"),
}

DEVICE_LOST: dict[str, BaseException] = {
    "assert": RuntimeError("CUDA error: device-side assert triggered" + ADVICE),
    "illegal access": ACCELERATOR("CUDA error: an illegal memory access was encountered" + ADVICE),
    "launch failure": RuntimeError("CUDA error: unspecified launch failure" + ADVICE),
    "misaligned": RuntimeError("CUDA error: misaligned address" + ADVICE),
    "memory error": RuntimeError("CUDA error: uncorrectable ECC error encountered" + ADVICE),
    "XPU": RuntimeError("level_zero backend failed with error: 20 (UR_RESULT_ERROR_DEVICE_LOST)"),
}

BUGS: dict[str, BaseException] = {
    "shapes": RuntimeError("mat1 and mat2 shapes cannot be multiplied (32x128 and 64x10)"),
    "batch norm": ValueError(
        "Expected more than 1 value per channel when training, got input size torch.Size([1, 64])"
    ),
    "a kernel's shared memory": RuntimeError(
        "out of resource: shared memory, Required: 147456, Hardware limit: 101376. Reducing block "
        "sizes or `num_stages` may help."
    ),
    "a key of that name": KeyError("CUDA out of memory"),
    "a value that speaks of it": ValueError("the simulated CUDA is out of memory"),
    "an assertion about memory formats": AssertionError("expected channels_last memory format"),
    "twice backward": RuntimeError(
        "Trying to backward through the graph a second time (or directly access saved tensors "
        "after they have already been freed)."
    ),
    "index": IndexError("index out of range in self"),
    "another CUDA error": RuntimeError("CUDA error: invalid argument" + ADVICE),
    "no kernel": RuntimeError(
        "CUDA error: no kernel image is available for execution on the device" + ADVICE
    ),
    "two devices": RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
        "cpu!"
    ),
    "pinned": RuntimeError(
        "cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned"
    ),
    "a missing file": FileNotFoundError(errno.ENOENT, "No such file or directory"),
    "shared memory of workers": RuntimeError(
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
        "dataloader's workers are out of shared memory. Please try to raise your shared memory "
        "limit."
    ),
    "overlapping memory": RuntimeError(
        "unsupported operation: some elements of the input tensor and the written-to tensor refer "
        "to a single memory location. Please clone() the tensor before performing the operation."
    ),
    "not implemented": NotImplementedError("out of memory handling on device cuda"),
    "the buffer of something else": RuntimeError("Invalid buffer size: expected a multiple of 4"),
    "cuDNN, executed": RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
}
