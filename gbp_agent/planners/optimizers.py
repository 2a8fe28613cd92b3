"""Optimiser steps on plain tensors, in place: no parameters, no graph, no state of their own."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

# Adam's and AdamW's constants are those of torch.optim; heavy-ball momentum is the usual 0.9.
MOMENTUM = 0.9
BETA_FIRST, BETA_SECOND = 0.9, 0.999
EPSILON = 1e-8
WEIGHT_DECAY = 0.01

Moments = tuple[Tensor, Tensor]
"""First and second moment of the gradient, shaped like the points; zeros at the start."""

OptimizerStep = Callable[[Tensor, Tensor, Moments, int, float], None]
"""(points, gradient, moments, step counted from 1, learning rate): changes points and moments."""


def sgd_step(points: Tensor, gradient: Tensor, moments: Moments, step: int, rate: float) -> None:
    """Plain gradient descent, in place."""
    points.add_(gradient, alpha=-rate)


def momentum_step(
    points: Tensor, gradient: Tensor, moments: Moments, step: int, rate: float
) -> None:
    """Gradient descent with heavy-ball momentum, in place."""
    points.add_(moments[0].mul_(MOMENTUM).add_(gradient), alpha=-rate)


def adam_step(points: Tensor, gradient: Tensor, moments: Moments, step: int, rate: float) -> None:
    """Adam (Kingma & Ba, arXiv 1412.6980, algorithm 1), in place."""
    first, second = moments
    first.lerp_(gradient, 1 - BETA_FIRST)
    second.mul_(BETA_SECOND).addcmul_(gradient, gradient, value=1 - BETA_SECOND)
    # Both corrections of the bias go into numbers: one pass over the points less.
    correction = math.sqrt(1 - BETA_SECOND**step)
    scale = second.sqrt().add_(EPSILON * correction)
    points.addcdiv_(first, scale, value=-rate * correction / (1 - BETA_FIRST**step))


def adamw_step(points: Tensor, gradient: Tensor, moments: Moments, step: int, rate: float) -> None:
    """Adam with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101), in place."""
    points.mul_(1 - rate * WEIGHT_DECAY)
    adam_step(points, gradient, moments, step, rate)


OPTIMIZERS: dict[str, OptimizerStep] = {
    "sgd": sgd_step,
    "momentum": momentum_step,
    "adam": adam_step,
    "adamw": adamw_step,
}
