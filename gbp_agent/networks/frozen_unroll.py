"""The unrolling of an MLPPredictor whose weights are fixed, for the planner's inner loop.

A gradient step of a few plans is hundreds of operations on small matrices, and autograd's and the
modules' bookkeeping takes as long as they do. Here the backward is written out: gradients of the
latents and of the embedded actions, none of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .linear import FrozenLinear

_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
_gelu_backward = torch.ops.aten.gelu_backward.default
_glu_backward = torch.ops.aten.glu_backward.default
# On a processor torch hands GELU of contiguous tensors to oneDNN, which for so few rows takes
# several times as long as torch itself; transposed tensors it keeps.
_FEW_ROWS = 32
# Up to so many hidden units, of all rows, one processor thread does it all. A second one saves
# a fifth of the time at most, of a quarter as many units nothing, and where another program keeps a
# core busy waiting for it takes ten times as long as the work.
_FEW_UNITS = 8192


class Block(NamedTuple):
    """hidden + second(gelu(first(norm(hidden))))."""

    norm: tuple[Tensor, Tensor, float]
    first: FrozenLinear
    second: FrozenLinear


class Layers(NamedTuple):
    """An MLPPredictor's layers."""

    input: FrozenLinear  # of latents, without bias
    blocks: list[Block]
    output: FrozenLinear  # changes, and the gates' logits if there are any
    width: int
    gated: bool

    @classmethod
    def of(cls, input: Tensor, blocks: nn.ModuleList, output: nn.Linear) -> Layers:
        """From the input's weight for latents, MLPPredictor's blocks and its output."""
        found = []
        for block in blocks:
            norm, first, _, second = cast("tuple[Any, ...]", tuple(block.children()))
            found.append(
                Block(
                    (norm.weight, norm.bias, norm.eps),
                    FrozenLinear(first.weight, first.bias),
                    FrozenLinear(second.weight, second.bias),
                )
            )
        width, latent_width = input.shape
        gated = output.out_features > latent_width
        return cls(
            FrozenLinear(input), found, FrozenLinear(output.weight, output.bias), width, gated
        )


def frozen_unroll(latent: Tensor, embedded: Tensor, layers: Layers) -> Tensor:
    """Latent (N, L) and the embedded actions of K substeps, input's bias included, (N, K, width) →
    the latents (N, K, L) after each. Differentiable once, in its first two arguments."""
    found: Tensor = _Unroll.apply(latent, embedded, layers)
    return found


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, embedded: Tensor, layers: Layers) -> Tensor:
        keep = any(ctx.needs_input_grad)
        with _threads_for(latent, embedded.shape[-1]):
            found, kept = _forward(latent, embedded, layers, keep)
        ctx.layers = layers
        ctx.save_for_backward(*kept)
        return torch.stack(found, 1)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        with _threads_for(gradient, ctx.layers.width):
            of_latent, of_embedded = _backward(gradient, ctx.saved_tensors, ctx.layers)
        return of_latent, torch.stack(of_embedded, 1), None


def _forward(
    latent: Tensor, embedded: Tensor, layers: Layers, keep: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """The latents after each substep, and what `_backward` needs if anything is to be kept."""
    few, width = len(latent) <= _FEW_ROWS, embedded.shape[-1:]
    found, kept, gated = [], [], layers.gated
    for step in embedded.unbind(1):
        hidden = layers.input(latent).add_(step)
        for (scale, shift, eps), first, second in layers.blocks:
            normed, mean, rstd = torch.native_layer_norm(hidden, width, scale, shift, eps)
            inner = first(normed)
            if keep:
                kept += [hidden, mean, rstd, inner]
            active = F.gelu(inner.t()).t() if few else F.gelu(inner)
            del normed, inner  # so that many plans find their memory in the cache
            hidden = second(active).add_(hidden)
            del active
        change = layers.output(hidden)
        if gated:
            if keep:
                kept.append(change)
            change = F.glu(change)
        latent = change.add_(latent)
        found.append(latent)
    return found, kept


def _backward(
    gradient: Tensor, saved: tuple[Tensor, ...], layers: Layers
) -> tuple[Tensor, list[Tensor]]:
    """From the gradient of the latents after each substep (N, K, L), those of the first latent and
    of each substep's embedded actions."""
    few = len(gradient) <= _FEW_ROWS
    width = (layers.width,)  # what torch.ops takes faster than a torch.Size
    kept = reversed(saved)
    of_input_alone = [True, False, False]
    of_latent = torch.zeros_like(gradient[:, 0])
    of_embedded = []
    for of_found in reversed(gradient.unbind(1)):
        of_latent += of_found
        of_change = _glu_backward(of_latent, next(kept), -1) if layers.gated else of_latent
        of_hidden = layers.output.back(of_change)
        for (scale, shift, _), first, second in reversed(layers.blocks):
            inner, rstd, mean, hidden = next(kept), next(kept), next(kept), next(kept)
            of_active = second.back(of_hidden)
            if few:
                of_inner = _gelu_backward(of_active.t(), inner.t()).t()
            else:
                of_inner = _gelu_backward(of_active, inner)
            of_block, _, _ = _layer_norm_backward(
                first.back(of_inner),
                hidden, width, mean, rstd, scale, shift, of_input_alone,
            )  # fmt: skip
            of_hidden.add_(of_block)
        of_embedded.append(of_hidden)
        of_latent += layers.input.back(of_hidden)
    return of_latent, of_embedded[::-1]


@contextmanager
def _threads_for(plans: Tensor, width: int) -> Iterator[None]:
    """One processor thread where these rows have few hidden units."""
    if plans.is_cuda or len(plans) * width > _FEW_UNITS:
        yield
        return
    threads = torch.get_num_threads()  # of this thread of Python
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
