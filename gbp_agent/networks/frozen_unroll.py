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
    """hidden + second(gelu(first(norm(hidden)))), as weight (out, in) and bias each."""

    norm: tuple[Tensor, Tensor, float]
    first: tuple[Tensor, Tensor]
    second: tuple[Tensor, Tensor]


class Layers(NamedTuple):
    """The weights of an MLPPredictor, so that no module is asked for them in each substep."""

    input: Tensor  # (width, L)
    blocks: list[Block]
    output: tuple[Tensor, Tensor]  # of changes, and of the gates' logits if there are any

    @classmethod
    def of(cls, input: Tensor, blocks: nn.ModuleList, output: nn.Linear) -> Layers:
        """From the input's weight for latents, MLPPredictor's blocks and its output."""
        found = []
        for block in blocks:
            norm, first, _, second = cast("tuple[Any, ...]", tuple(block.children()))
            found.append(
                Block(
                    (norm.weight, norm.bias, norm.eps),
                    (first.weight, first.bias),
                    (second.weight, second.bias),
                )
            )
        return cls(input, found, (output.weight, output.bias))

    @property
    def gated(self) -> bool:
        """Whether the output holds gates behind the changes."""
        return len(self.output[0]) > self.input.shape[1]

    def frozen(self) -> bool:
        """Whether none of the weights is to be trained."""
        blocks = [[*b.norm[:2], *b.first, *b.second] for b in self.blocks]
        return not any(w.requires_grad for w in sum(blocks, [self.input, *self.output]))


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
        with _threads_for(gradient, len(ctx.layers.input)):
            of_latent, of_embedded = _backward(gradient, ctx.saved_tensors, ctx.layers)
        return of_latent, torch.stack(of_embedded, 1), None


def _forward(
    latent: Tensor, embedded: Tensor, layers: Layers, keep: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """The latents after each substep, and what `_backward` needs if anything is to be kept."""
    few, width = len(latent) <= _FEW_ROWS, embedded.shape[-1:]
    weight_in, weight_out, bias_out = layers.input.t(), layers.output[0].t(), layers.output[1]
    blocks = [
        (*norm, bias_1, weight_1.t(), bias_2, weight_2.t())
        for norm, (weight_1, bias_1), (weight_2, bias_2) in layers.blocks
    ]
    found, kept, gated = [], [], layers.gated
    for step in embedded.unbind(1):
        hidden = torch.addmm(step, latent, weight_in)
        for scale, shift, eps, bias_1, weight_1, bias_2, weight_2 in blocks:
            normed, mean, rstd = torch.native_layer_norm(hidden, width, scale, shift, eps)
            inner = torch.addmm(bias_1, normed, weight_1)
            if keep:
                kept += [hidden, mean, rstd, inner]
            active = F.gelu(inner.t()).t() if few else F.gelu(inner)
            del normed, inner  # so that many plans find their memory in the cache
            hidden = torch.addmm(bias_2, active, weight_2).add_(hidden)
            del active
        change = torch.addmm(bias_out, hidden, weight_out)
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
    few, weight_out = len(gradient) <= _FEW_ROWS, layers.output[0]
    width = (len(layers.input),)  # what torch.ops takes faster than a torch.Size
    blocks = [
        (scale, shift, weight_1, weight_2)
        for (scale, shift, _), (weight_1, _), (weight_2, _) in reversed(layers.blocks)
    ]
    kept, gated = reversed(saved), layers.gated
    of_input_alone = [True, False, False]
    of_latent = torch.zeros_like(gradient[:, 0])
    of_embedded = []
    for of_found in reversed(gradient.unbind(1)):
        of_latent += of_found
        of_change = _glu_backward(of_latent, next(kept), -1) if gated else of_latent
        of_hidden = torch.mm(of_change, weight_out)
        for scale, shift, weight_1, weight_2 in blocks:
            inner, rstd, mean, hidden = next(kept), next(kept), next(kept), next(kept)
            of_active = torch.mm(of_hidden, weight_2)
            if few:
                of_inner = _gelu_backward(of_active.t(), inner.t()).t()
            else:
                of_inner = _gelu_backward(of_active, inner)
            of_block, _, _ = _layer_norm_backward(
                torch.mm(of_inner, weight_1),
                hidden, width, mean, rstd, scale, shift, of_input_alone,
            )  # fmt: skip
            of_hidden.add_(of_block)
        of_embedded.append(of_hidden)
        of_latent.addmm_(of_hidden, layers.input)
    return of_latent, of_embedded[::-1]


@contextmanager
def _threads_for(plans: Tensor, width: int) -> Iterator[None]:
    """One processor thread where these rows have few hidden units."""
    if torch.compiler.is_compiling() or plans.is_cuda or len(plans) * width > _FEW_UNITS:
        yield
        return
    threads = torch.get_num_threads()  # of this thread of Python
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
