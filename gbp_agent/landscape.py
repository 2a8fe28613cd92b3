"""The shape of a planning cost round a plan: a slice to look at, and one number for smoothness."""

from __future__ import annotations

import torch
from torch import Tensor

from .planners.common import cost_and_gradient, evaluate
from .types import CostFunction


def cost_slice(
    cost: CostFunction, center: Tensor, span: float, points: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Cost over a plane of plans through `center`.

    center: (1, H, M), model actions of the one problem that `cost` is of.
    span: how far the plane reaches from the centre, in root mean squared units of a model action.
    points: along each side. seed: of the two directions, random and orthogonal.

    Returns the coordinates (points,), from -span to span, and the cost (points, points), the
    first direction along the rows.
    """
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(center[0].numel(), 2, generator=generator)
    directions = torch.linalg.qr(random).Q.T * center[0].numel() ** 0.5
    first, second = directions.to(center).unflatten(1, center.shape[1:])
    axis = torch.linspace(-span, span, points, device=center.device)
    rows = []
    for x in axis:
        plans = center[0] + x * first + axis[:, None, None] * second
        rows.append(evaluate(cost, plans[None])[0])
    return axis, torch.stack(rows)


def gradient_variation(
    cost: CostFunction,
    center: Tensor,
    spread: float = 0.5,
    step: float = 0.1,
    samples: int = 32,
    seed: int = 0,
) -> Tensor:
    """How much the cost's gradient turns within a small step: ‖∇c(a + δ) - ∇c(a)‖ / ‖∇c(a)‖,
    averaged over plans a near `center`. Near 0 where the cost is smooth, of the order of 1 where a
    gradient says nothing about the next step.

    center: (B, H, M). spread, step: standard deviation per number of a about the centre and of δ.
    Returns (B,).
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, *center.shape[1:])
    away, small = (
        torch.randn(shape, generator=generator).to(center) * scale for scale in (spread, step)
    )
    here = center[:, None] + away
    before = cost_and_gradient(cost, here)[1].flatten(2)
    after = cost_and_gradient(cost, here + small)[1].flatten(2)
    return ((after - before).norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-12)).mean(1)
