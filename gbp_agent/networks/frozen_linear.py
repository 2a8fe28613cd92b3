"""Products with weights that stay as they are, by the libraries that PyTorch comes with.

For float32 PyTorch itself calls MKL, which brings the weights into the order in which it reads them
anew for each product, and makes no use of AVX-512 on processors that are not Intel's. Two others
take weights that were brought into order once:

    oneDNN  for many rows; also bfloat16, where the processor packs it
    FBGEMM  for few rows, where reading the weights takes longer than multiplying by them, if every
            weight is a half-precision number, as in checkpoints that were saved so: it reads half
            as much, and multiplies and adds in float32, so that nothing is lost
"""

from __future__ import annotations

import platform
import warnings
from functools import lru_cache

import torch
from torch import Tensor

# oneDNN takes some 10 µs to begin with, in which MKL has multiplied as many numbers.
_FEW_PRODUCTS = 500_000
# FBGEMM begins at once and always works with one thread. Up to so many products it is the fastest,
# where PyTorch may use one thread and where it may use several.
_HALVES_ALONE, _HALVES_AMONG_THREADS = 20_000_000, 2_500_000
_DTYPES = (torch.float32, torch.bfloat16)


class FrozenLinear:
    """x → x Wᵀ + b, `forth`, and the gradient of x, `back`, for a weight that is not trained.

    Args:
        weight: W (out, in), whose later changes are not seen; float32 or bfloat16 on a processor is
            packed, each way at its first use.
        bias: (out,), or none.

    Attributes:
        forth: (N, in) → (N, out).
        back: the gradient of what came out (N, out) → that of x, (N, in).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        weight = weight.detach()
        self.forth = Product(weight, None if bias is None else bias.detach())
        self.back = Product(weight.t(), None)


class Product:
    """x → x Wᵀ + b, by what is fastest for so many rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self._weight, self._turned, self._bias = weight, weight.t(), bias
        self._outputs = len(weight)
        self._can_pack = can_pack(weight)
        self._may_be_halves = self._can_pack and weight.dtype == torch.float32 and _reads_halves()
        self._packed: Tensor | None = None
        self._halves: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        products = x.numel() * self._outputs
        alone = torch.get_num_threads() == 1
        few = products < (_HALVES_ALONE if alone else _HALVES_AMONG_THREADS)
        halves = self._as_halves() if few else None
        if halves is not None:
            return torch.fbgemm_linear_fp16_weight_fp32_activation(x, *halves)
        if self._can_pack and products >= _FEW_PRODUCTS:
            if self._packed is None:
                self._packed = _pack(self._weight)
            return _packed_product(x, self._packed, self._bias)
        if self._bias is None:
            return torch.mm(x, self._turned)
        return torch.addmm(self._bias, x, self._turned)

    @property
    def reads_halves(self) -> bool:
        """Whether FBGEMM multiplies a few rows, so that two take about as long as one."""
        return self._as_halves() is not None

    def _as_halves(self) -> tuple[Tensor, Tensor] | None:
        """Packed weight and bias, if nothing is lost by that; else none, from now on."""
        if self._may_be_halves and self._halves is None:
            self._may_be_halves = holds_halves(self._weight)
            if self._may_be_halves:
                bias = self._bias
                bias = self._weight.new_zeros(self._outputs) if bias is None else bias
                self._halves = _pack_halves(self._weight), bias
        return self._halves


def can_pack(weight: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether oneDNN multiplies by this weight, or by it in that type. Not by one that was made in
    inference mode, whose changes are not counted."""
    kind = dtype or weight.dtype
    known = weight.device.type == "cpu" and kind in _DTYPES and not weight.is_inference()
    return known and may_pack() and (kind != torch.bfloat16 or _packs_bfloat16())


def may_pack() -> bool:
    """Whether weights may be packed at all; `torch.backends.mkldnn.flags(enabled=False)` leaves
    every product to PyTorch."""
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


@lru_cache
def _reads_halves() -> bool:
    """Whether PyTorch offers FBGEMM's product, which it may do no longer some day: it warns of that
    at the first call, which is this one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            one = torch.ones(1, 1, dtype=torch.float32, device="cpu")
            two = torch.fbgemm_linear_fp16_weight_fp32_activation(one, _pack_halves(one), one[0])
            return float(two) == 2
        except (AttributeError, RuntimeError):  # gone, or not for this processor
            return False


def holds_halves(weight: Tensor) -> bool:
    """Whether these float32 numbers, one at least, are half-precision ones, all finite."""
    half = weight.half()
    return weight.numel() > 0 and bool((half.isfinite() & (half == weight)).all())


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight)
    return packed


def _packed_product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
    return found


def _pack_halves(weight: Tensor) -> Tensor:
    return torch.fbgemm_pack_gemm_matrix_fp16(weight.contiguous())
