"""Optimiser steps on plain tensors, in place: no parameters, no graph, no state of their own."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

# AdamW's constants are those of torch.optim; heavy-ball momentum is the usual 0.9.
MOMENTUM = 0.9
EPSILON = 1e-8
WEIGHT_DECAY = 0.01

Moments = tuple[Tensor, Tensor]
"""First and second moment of the gradient, shaped like the points; zeros at the start."""

Betas = tuple[float, float]
"""How much of Adam's first and second moment is kept in a step."""

BETAS: Betas = (0.9, 0.999)
"""The usual ones, torch.optim's."""

OptimizerStep = Callable[[Tensor, Tensor, Moments, int, float, Betas], None]
"""(points, gradient, moments, step counted from 1, learning rate, betas): changes points and
moments."""


def sgd_step(
    points: Tensor, gradient: Tensor, moments: Moments, step: int, rate: float, betas: Betas
) -> None:
    """Plain gradient descent, in place."""
    points.add_(gradient, alpha=-rate)


def momentum_step(
    points: Tensor, gradient: Tensor, moments: Moments, step: int, rate: float, betas: Betas
) -> None:
    """Gradient descent with heavy-ball momentum, in place."""
    points.add_(moments[0].mul_(MOMENTUM).add_(gradient), alpha=-rate)


def adam_step(
    points: Tensor, gradient: Tensor, moments: Moments, step: int, rate: float, betas: Betas
) -> None:
    """Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1), in place."""
    first, second = moments
    kept, kept_squares = betas
    first.lerp_(gradient, 1 - kept)
    second.mul_(kept_squares).addcmul_(gradient, gradient, value=1 - kept_squares)
    # Both corrections of the bias go into numbers: one pass over the points less.
    correction = math.sqrt(1 - kept_squares**step)
    scale = second.sqrt().add_(EPSILON * correction)
    points.addcdiv_(first, scale, value=-rate * correction / (1 - kept**step))


def adamw_step(
    points: Tensor, gradient: Tensor, moments: Moments, step: int, rate: float, betas: Betas
) -> None:
    """Adam with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), in place."""
    points.mul_(1 - rate * WEIGHT_DECAY)
    adam_step(points, gradient, moments, step, rate, betas)


OPTIMIZERS: dict[str, OptimizerStep] = {
    "sgd": sgd_step,
    "momentum": momentum_step,
    "adam": adam_step,
    "adamw": adamw_step,
}
