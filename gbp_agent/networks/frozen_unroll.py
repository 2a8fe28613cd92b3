"""The unrolling of an MLPPredictor whose weights are fixed, for the planner's inner loop.

A gradient step of a few plans is hundreds of operations on small matrices, and autograd's and the
modules' bookkeeping takes as long as they do. Here the backward is written out: gradients of the
latents and of the embedded actions, none of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .frozen_linear import FrozenLinear

_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
_gelu_backward = torch.ops.aten.gelu_backward.default
_glu_backward = torch.ops.aten.glu_backward.default
# On a processor torch hands GELU of contiguous tensors to oneDNN, which for so few rows takes
# several times as long as torch itself; transposed tensors it keeps. One row is contiguous either
# way, so that a single plan is rolled out twice, side by side, where that reads no more: by
# half-precision weights. It then takes two to three quarters of the time.
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

    input: FrozenLinear  # of latents
    blocks: list[Block]
    output: FrozenLinear  # changes, and the gates' logits if there are any
    width: int
    latent_width: int
    gated: bool

    @classmethod
    def of(cls, input: Tensor, bias: Tensor, blocks: nn.ModuleList, output: nn.Linear) -> Layers:
        """From the input's weight for latents and its bias, MLPPredictor's blocks and output."""
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
        return cls(
            FrozenLinear(input, bias),
            found,
            FrozenLinear(output.weight, output.bias),
            width,
            latent_width,
            gated=output.out_features > latent_width,
        )


def frozen_unroll(
    latent: Tensor, embedded: Tensor, members: Sequence[Layers], checkpointed: bool = False
) -> Tensor:
    """Latent (N, L) and the embedded actions of n substeps (N, n, width) → the latents (N, n, L)
    after each. Differentiable once, in its first two arguments.

    members: one predictor, or the K of an ensemble, whose latents have a token for each and one
        proprioception, L = K·D + E, and whose embedded actions lie side by side.
    checkpointed: whether torch.utils.checkpoint calls this, which has to see what is kept.
    """
    found: Tensor = _Unroll.apply(latent, embedded, members, checkpointed)
    return found


class _Unroll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, latent: Tensor, embedded: Tensor, members: Sequence[Layers], checkpointed: bool
    ) -> Tensor:
        kept: list[Tensor] | None = [] if any(ctx.needs_input_grad) else None
        count, found = len(members), []
        ctx.twice = len(latent) == 1 and members[0].input.forth.reads_halves
        if ctx.twice:
            latent, embedded = _twice(latent), _twice(embedded)
        # Without autograd's bookkeeping, up to a tenth of a gradient step of few plans.
        quick = torch.no_grad() if checkpointed else torch.inference_mode()
        with _threads_for(latent, members[0].width), quick:
            for step in embedded.unbind(1):
                vectors = [
                    _forward(vector, mine, layers, kept)
                    for vector, mine, layers in zip(
                        _apart(latent, members, 1.0), step.chunk(count, 1), members, strict=True
                    )
                ]
                latent = _together(vectors, latent.shape[1], 1 / count)
                found.append(latent[:1] if ctx.twice else latent)
        ctx.members, ctx.checkpointed = members, checkpointed
        ctx.kept = None if checkpointed else kept
        if checkpointed:
            ctx.save_for_backward(*(kept or ()))
        # Into a tensor of its own, which can be written to: a stack of what was made in inference
        # mode counts as a view.
        out = found[0].new_empty(len(found[0]), len(found), found[0].shape[1])
        return torch.stack(found, 1, out=out)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        members, known = ctx.members, ctx.saved_tensors if ctx.checkpointed else ctx.kept
        if known is None:
            raise RuntimeError(
                "a roll-out is differentiated a second time, but what that takes is freed; "
                "give retain_graph=True the first time"
            )
        if not _keeps_graph():
            ctx.kept = None  # freed with what else the graph holds
        count, kept = len(members), reversed(known)
        if ctx.twice:
            gradient = _twice(gradient)
        of_latent, of_embedded = torch.zeros_like(gradient[:, 0]), []
        with _threads_for(gradient, members[0].width), torch.inference_mode():
            for of_found in reversed(gradient.unbind(1)):
                after = _apart(of_latent + of_found, members, 1 / count)
                before = [
                    _backward(vector, layers, kept)
                    for vector, layers in zip(reversed(after), reversed(members), strict=True)
                ][::-1]
                of_latent = _together([vector for vector, _ in before], gradient.shape[2], 1.0)
                of_embedded += [hidden for _, hidden in reversed(before)]
        # Back to front, the last member first.
        steps = torch.stack(of_embedded[::-1], 1).unflatten(1, (-1, count)).flatten(2)
        rows = 1 if ctx.twice else len(gradient)
        return of_latent[:rows].clone(), steps[:rows], None, None


def _twice(row: Tensor) -> Tensor:
    """A single row (1, ...) as (2, ...)."""
    return row.expand(2, *row.shape[1:])


# Whether backward was asked to retain the graph. Where PyTorch does not say, nothing is freed.
_keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def _apart(latent: Tensor, members: Sequence[Layers], share: float) -> list[Tensor]:
    """Latent (N, K·D + E) → the vectors (N, D + E) of the K members, each with this share of the
    proprioception."""
    if len(members) == 1:
        return [latent]
    token = (latent.shape[1] - members[0].latent_width) // (len(members) - 1)
    *tokens, proprio = latent.split(
        [*[token] * len(members), latent.shape[1] - token * len(members)], 1
    )
    return [torch.cat([token, proprio * share], 1) for token in tokens]


def _together(vectors: list[Tensor], latent_width: int, share: float) -> Tensor:
    """What `_apart` takes apart, with this share of the sum of the proprioceptions."""
    if len(vectors) == 1:
        return vectors[0]
    token = (latent_width - vectors[0].shape[1]) // (len(vectors) - 1)
    proprio = torch.stack([vector[:, token:] for vector in vectors]).sum(0) * share
    return torch.cat([*(vector[:, :token] for vector in vectors), proprio], 1)


def _forward(latent: Tensor, step: Tensor, layers: Layers, kept: list[Tensor] | None) -> Tensor:
    """One substep, (N, L) from (N, L); what `_backward` needs is put behind what is kept."""
    few, width = len(latent) <= _FEW_ROWS, step.shape[-1:]
    hidden = layers.input.forth(latent).add_(step)
    for (scale, shift, eps), first, second in layers.blocks:
        normed, mean, rstd = torch.native_layer_norm(hidden, width, scale, shift, eps)
        inner = first.forth(normed).t() if few else first.forth(normed)
        if kept is not None:
            kept += [hidden, mean, rstd, inner]
        active = F.gelu(inner).t() if few else F.gelu(inner)
        del normed, inner  # so that many plans find their memory in the cache
        hidden = second.forth(active).add_(hidden)
        del active
    change = layers.output.forth(hidden)
    if layers.gated:
        if kept is not None:
            kept.append(change)
        change = F.glu(change)
    return change.add_(latent)


def _backward(of_latent: Tensor, layers: Layers, kept: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """From the gradient of the latents after a substep (N, L), which is written over, those of the
    latents before it and of its embedded actions. kept: what `_forward` kept, last things first."""
    few = len(of_latent) <= _FEW_ROWS
    width = (layers.width,)  # what torch.ops takes faster than a torch.Size
    of_change = _glu_backward(of_latent, next(kept), -1) if layers.gated else of_latent
    of_hidden = layers.output.back(of_change)
    for (scale, shift, _), first, second in reversed(layers.blocks):
        inner, rstd, mean, hidden = next(kept), next(kept), next(kept), next(kept)
        of_active = second.back(of_hidden)
        if few:
            of_inner = _gelu_backward(of_active.t(), inner).t()
        else:
            of_inner = _gelu_backward(of_active, inner)
        of_block, _, _ = _layer_norm_backward(
            first.back(of_inner),
            hidden, width, mean, rstd, scale, shift, [True, False, False],
        )  # fmt: skip
        of_hidden.add_(of_block)
    return of_latent.add_(layers.input.back(of_hidden)), of_hidden


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
