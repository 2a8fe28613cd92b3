"""Linear layers whose weights stay as they are, for the planner's inner loop on a processor.

A planner multiplies by the same weights thousands of times. oneDNN can bring them into the order
in which its kernels read them, once; PyTorch itself does so only in compiled programs that freeze
theirs, and for float32 calls MKL, which for the few rows of a gradient step spends most of its
time on that, and on processors that are not Intel's makes no use of AVX-512.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Made = TypeVar("Made")
_made: WeakKeyDictionary[nn.Module, tuple[Any, Any, list[Tensor]]] = WeakKeyDictionary()
# oneDNN takes some 10 µs to begin with, in which MKL has multiplied as many numbers.
_FEW_PRODUCTS = 500_000
_DTYPES = (torch.float32, torch.bfloat16)


def can_pack(weight: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether oneDNN multiplies by this weight, or by it in that type. Not by one that was made in
    inference mode, whose changes are not counted."""
    kind = dtype or weight.dtype
    known = weight.device.type == "cpu" and kind in _DTYPES and not weight.is_inference()
    return known and _enabled() and (kind != torch.bfloat16 or _packs_bfloat16())


def _enabled() -> bool:
    """Whether oneDNN may be used; `torch.backends.mkldnn.flags(enabled=False)` forbids it."""
    return bool(torch.backends.mkldnn.enabled) and _available()


@lru_cache
def _available() -> bool:
    """Whether this is x86-64 and a PyTorch that has oneDNN, with the operations that its own
    compiler calls."""
    operations = torch.ops.mkldnn
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and hasattr(operations, "_linear_pointwise")
        and hasattr(operations, "_reorder_linear_weight")
    )


@lru_cache
def _packs_bfloat16() -> bool:
    """Whether this processor has what oneDNN asks for to pack bfloat16."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    return bool(supported())


class FrozenLinear:
    """x → x Wᵀ + b, and the gradient of x, for a weight that is not trained.

    Args:
        weight: W (out, in), whose later changes are not seen; float32 or bfloat16 on a processor is
            packed, each way at its first use.
        bias: (out,), or none.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self._weight, self._turned = weight.detach(), weight.detach().t()
        self._bias = None if bias is None else bias.detach()
        self._outputs, self._inputs = weight.shape
        self._few = _FEW_PRODUCTS if can_pack(weight) else math.inf
        self._forth: Tensor | None = None
        self._back: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(N, in) → (N, out)."""
        if x.numel() * self._outputs < self._few:
            if self._bias is None:
                return torch.mm(x, self._turned)
            return torch.addmm(self._bias, x, self._turned)
        if self._forth is None:
            self._forth = _pack(self._weight)
        return _product(x, self._forth, self._bias)

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient of what came out (N, out) → that of x, (N, in)."""
        if gradient.numel() * self._inputs < self._few:
            return torch.mm(gradient, self._weight)
        if self._back is None:
            self._back = _pack(self._turned)
        return _product(gradient, self._back, None)


class Linear(nn.Linear):
    """nn.Linear; where it is not trained, on a processor, a FrozenLinear, which is faster and can
    be differentiated once only, not by torch.func. Under autocast it is kept in that type."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(input)
        weights = [self.weight] if self.bias is None else [self.weight, self.bias]
        dtype = self._frozen_dtype(input, weights)
        if dtype is None:
            forget(self)
            return super().forward(input)
        frozen = unchanged(
            self, weights, lambda: FrozenLinear(*(w.to(dtype) for w in weights)), dtype
        )
        found: Tensor = _Apply.apply(input.to(dtype).flatten(0, -2), frozen)
        return found.unflatten(0, input.shape[:-1])

    def _frozen_dtype(self, input: Tensor, weights: list[Tensor]) -> torch.dtype | None:
        """The type to multiply in by a FrozenLinear, or None where there can be none."""
        if self.weight.device.type != "cpu" or input.device.type != "cpu" or input.dim() < 2:
            return None
        dtype = self.weight.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        elif input.dtype != dtype:
            return None
        trained = any(weight.requires_grad for weight in weights)
        return None if trained or not can_pack(self.weight, dtype) else dtype


def unchanged(
    module: nn.Module, weights: Sequence[Tensor], make: Callable[[], Made], *of: Any
) -> Made:
    """What `make` made of these weights of the module, until one of them or of the other things
    that it depends on changes, or `forget` is called.

    Changes in place are seen by PyTorch's count of them, which neither those of `weight.data` raise
    nor fused optimisers; who trains the module in between has it forgotten.
    """
    if any(weight.is_inference() for weight in weights):
        return make()
    now = (*((weight.data_ptr(), weight._version) for weight in weights), *of, _enabled())
    found = _made.get(module)
    if found is None or found[0] != now:
        # The weights are held, so that no others can come to lie where they were.
        found = _made[module] = (now, make(), [weight.detach() for weight in weights])
    return found[1]  # type: ignore[no-any-return]


def forget(module: nn.Module) -> None:
    """Drop what `unchanged` keeps for the module, which is trained or elsewhere now."""
    _made.pop(module, None)


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: FrozenLinear) -> Tensor:
        ctx.frozen = frozen
        return frozen(x)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.frozen.back(gradient), None


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
    return found
