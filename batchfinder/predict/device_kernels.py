"""What a CUDA device does otherwise than the CPU, followed while a step runs on fake tensors.

Three differences decide how much memory a step needs:

- attention takes a fused kernel, which keeps query, key, value, output and one number a row, where
  the CPU keeps the whole matrix of weights as soon as there is dropout;
- autocast runs more operators in float32 (``layer_norm``, ``pow``, ``softmax``, losses, …);
- dropout keeps a mask of one byte an element.

Sources: ``torch.nn.attention.SDPBackend``; "CUDA Ops that can autocast to float32" in torch's
documentation of ``torch.amp``; ``aten/src/ATen/autocast_mode.h``.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from batchfinder.run.torch_internals.tensors import tree_map

__all__ = ["OTHER_KERNELS", "CudaKernels"]

_LARGEST_FUSED_HEAD = 256
"""Flash and memory-efficient attention take heads up to this size."""

OTHER_KERNELS = (
    "attention, dropout and autocast use memory as on CUDA; all other kernels save the same "
    "tensors as on the CPU"
)

MATH_ATTENTION = (
    "attention with a mask uses a fused kernel; the lower end of the range assumes that the "
    "device has none and that the attention matrix is saved too"
)


class CudaKernels(TorchFunctionMode):
    """While entered, functions take the memory that their CUDA kernels take.

    Args:
        pessimistic: whether attention for which a fused kernel is likely but not certain keeps
            its matrix of weights.

    Attributes:
        uncertain: what is likely but not certain of the kernels met so far, as sentences.
    """

    def __init__(self, *, pessimistic: bool = False) -> None:
        super().__init__()
        self.pessimistic = pessimistic
        self.uncertain: dict[str, None] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is functional.dropout:
            return _dropout(*args, **given)
        if func is functional.scaled_dot_product_attention:
            return self._attention(*args, **given)
        if getattr(func, "__name__", "") in _FLOAT32 and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                full, named = tree_map(_as_float32, (args, given))
                return func(*full, **named)
        if func is functional.multi_head_attention_forward:
            with self:
                return _attention_of_heads(*args, **given)
        return func(*args, **given)

    def _attention(  # noqa: PLR0917 - the signature of torch's function
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
        fused = max(query.shape[-1], value.shape[-1]) <= _LARGEST_FUSED_HEAD
        if attn_mask is not None:
            self.uncertain[MATH_ATTENTION] = None
            fused = fused and not self.pessimistic
        if fused:
            out: torch.Tensor = _FusedAttention.apply(query, key, value)  # type: ignore[no-untyped-call]  # torch leaves it untyped
            return out
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )


class _FusedAttention(torch.autograd.Function):
    """Shapes and lifetimes of flash attention; its numbers mean nothing."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        *outer, rows, _ = query.shape
        if outer:  # heads lie inside of rows, so that joining them again copies nothing
            *outer, heads = outer
            out = query.new_empty((*outer, rows, heads, value.shape[-1])).transpose(-3, -2)
        else:
            out = query.new_empty((rows, value.shape[-1]))
        row = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, row)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _, row = ctx.saved_tensors
        # the kernel gathers the query's gradient in float32, and keeps one more number a row
        gathered = torch.empty_like(query, dtype=torch.float32), torch.empty_like(row)
        found = tuple(torch.empty_like(tensor) for tensor in (query, key, value))
        del gathered
        return found


def _dropout(
    input: torch.Tensor,  # noqa: A002 - the name in torch, which callers may use
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    if inplace or not training or p == 0:
        return functional.dropout(input, p, training, inplace)
    return torch.native_dropout(input, p, True)[0]


def _as_float32(value: Any) -> Any:
    lower = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if lower else value


def _without_asking(function: Any) -> Callable[..., Any]:
    """``function`` without its own question for modes, so that a mode sees what it calls."""
    outer = {
        **function.__globals__,
        "has_torch_function": lambda *_: False,
        "has_torch_function_unary": lambda *_: False,
        "has_torch_function_variadic": lambda *_: False,
    }
    inner = types.FunctionType(function.__code__, outer, argdefs=function.__defaults__)
    inner.__kwdefaults__ = function.__kwdefaults__
    return inner


_attention_of_heads = _without_asking(functional.multi_head_attention_forward)

_FLOAT32 = frozenset(
    (
        *("__pow__", "__rpow__", "__rdiv__", "acos", "asin", "cosh", "erfinv", "exp", "expm1"),
        *("log", "log10", "log2", "log1p", "reciprocal", "rsqrt", "sinh", "tan", "pow"),
        *("softplus", "layer_norm", "group_norm", "rms_norm", "norm", "nuclear_norm", "renorm"),
        *("softmax", "log_softmax", "logsumexp", "sum", "prod", "cumsum", "cumprod"),
        *("dist", "pdist", "cdist", "cosine_similarity", "cosine_embedding_loss"),
        *("cross_entropy", "nll_loss", "kl_div", "poisson_nll_loss", "hinge_embedding_loss"),
        *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "soft_margin_loss"),
        *("margin_ranking_loss", "multilabel_margin_loss", "multi_margin_loss"),
        *("triplet_margin_loss", "binary_cross_entropy_with_logits"),
    )
)
"""By name, so that ``torch.pow``, ``Tensor.pow`` and ``**`` are one."""
