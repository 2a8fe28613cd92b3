"""Losses of pre-training, each a pure function of a batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..networks import darkness


def reconstruction(
    decoded: Tensor, pixels: Tensor, foreground_weight: float, target: Tensor | None = None
) -> Tensor:
    """Weighted mean squared error of a decoded picture.

    decoded: (N, 3, S, S), the decoder's output; pixels: (N, S, S, 3) uint8. Pixels that differ
    from white count `foreground_weight` times as much as the white ground, which otherwise drowns
    small objects. target: (N, 3, S, S), the picture's darkness unless another is given.
    """
    dark = darkness(pixels, torch.float32)
    weight = 1.0 + (foreground_weight - 1.0) * (dark.amax(1, keepdim=True) > 0.05)
    wanted = dark if target is None else target
    return (weight * (decoded.float() - wanted).square()).mean()


def relative_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over the target's variance, so that small latents win nothing; (N, L)."""
    return (predicted - target).square().mean() / (target.detach().var(0).mean() + 1e-6)


def variance(latents: Tensor) -> Tensor:
    """Hinge that keeps each dimension's standard deviation at 1 or above (VICReg,
    arXiv 2105.04906); latents (N, D)."""
    return F.relu(1.0 - (latents.var(0) + 1e-4).sqrt()).mean()


def covariance(latents: Tensor) -> Tensor:
    """Mean squared off-diagonal covariance per dimension (VICReg); latents (N, D)."""
    centered = latents - latents.mean(0)
    matrix = centered.T @ centered / (len(latents) - 1)
    return (matrix - torch.diag(torch.diag(matrix))).square().sum() / latents.shape[1]


def sigreg(latents: Tensor, generator: torch.Generator, projections: int = 1000) -> Tensor:
    """Distance of the latents' distribution from a standard normal (SIGReg, arXiv 2511.08544).

    Epps-Pulley statistic of random one-dimensional projections, averaged; latents (N, D).
    """
    directions = torch.randn(
        latents.shape[1], projections, generator=generator, device=latents.device
    )
    values = latents @ F.normalize(directions, dim=0)
    points = torch.linspace(0.2, 3.0, 15, device=latents.device)
    angles = values[..., None] * points
    normal = torch.exp(-0.5 * points.square())
    real = angles.cos().mean(0) - normal
    imaginary = angles.sin().mean(0)
    return ((real.square() + imaginary.square()) * normal).mean(0).sum() * len(latents) / 100


def straightening(latents: Tensor) -> Tensor:
    """1 - cosine between successive differences (arXiv 2603.12231); latents (N, n ≥ 3, D)."""
    difference = latents.diff(dim=1)
    return 1.0 - F.cosine_similarity(difference[:, 1:], difference[:, :-1], dim=-1, eps=1e-4).mean()
