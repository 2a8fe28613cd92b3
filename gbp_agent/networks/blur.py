"""A Gaussian blur as one matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_blur(size: int, std: float) -> Tensor:
    """The matrix (S, S) that blurs along one axis of a picture of S px, with zeros beyond its
    edges; the identity for std = 0."""
    place = torch.arange(size, dtype=torch.float32)
    if std == 0:
        return torch.eye(size)
    weight = torch.exp(-0.5 * ((place[:, None] - place) / std).square())
    return weight / (std * (2 * torch.pi) ** 0.5)
