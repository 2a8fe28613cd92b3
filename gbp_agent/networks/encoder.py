"""Picture encoders of the compact family: one latent vector per frame."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .distance import distance_transform


class ConvEncoder(nn.Module):
    """Strided convolutions, then where each feature is rather than what it is.

    Each channel of the last feature map is read as a distribution over the picture, and its mean
    position is kept (spatial soft-argmax of Levine et al., 2016, arXiv 1504.00702); a linear map
    of the K positions is the latent. Positions move evenly with what they track, so distances
    between latents grow evenly too.

    Args:
        image_size: S, a multiple of 8.
        latent_dim: D.
        width: channels of the first convolution.
        keypoints: K, channels of the last feature map.
    """

    def __init__(self, image_size: int, latent_dim: int, width: int = 32, keypoints: int = 64):
        super().__init__()
        if image_size % 8:
            raise ValueError(f"image_size must be a multiple of 8, got {image_size}")
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(2 * width, keypoints, 3, padding=1),
        )
        grid = (torch.arange(image_size // 4) + 0.5) / (image_size // 4) * 2 - 1
        self.register_buffer("grid", grid, persistent=False)
        self.norm = nn.InstanceNorm2d(keypoints)
        self.sharpness = nn.Parameter(torch.full((keypoints, 1), 2.0))
        self.head = nn.Linear(2 * keypoints, latent_dim)

    grid: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3) uint8 → latents (N, D) float."""
        maps = self.norm(self.features(darkness(pixels, self.head.weight.dtype)).float())
        share = F.softmax(maps.flatten(2) * self.sharpness, dim=-1).unflatten(2, maps.shape[2:])
        x = (share.sum(2) * self.grid).sum(-1)
        y = (share.sum(3) * self.grid).sum(-1)
        return self.head(torch.cat([x, y], dim=-1))


class LinearEncoder(nn.Module):
    """A linear map of the picture, in greys: for many like things, of which none has a place of
    its own, how full each part of the picture is.

    Args:
        image_size: S.
        latent_dim: D.
    """

    def __init__(self, image_size: int, latent_dim: int):
        super().__init__()
        self.head = nn.Linear(image_size**2, latent_dim)

    def features(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3) uint8 → the numbers (N, S²) that are mapped."""
        return self.greys(pixels).flatten(1)

    def greys(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3) uint8 → their mean darkness (N, S, S)."""
        return darkness(pixels, self.head.weight.dtype).mean(1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3) uint8 → latents (N, D) float."""
        latents: Tensor = self.head(self.features(pixels))
        return latents


class ChamferEncoder(LinearEncoder):
    """A linear map of the blurred picture less its distance field.

    If the map keeps distances, the squared distance of two latents is |Δρ|² − 2w⟨Δρ, ΔD⟩ + w²|ΔD|²,
    of the pictures ρ and the distances D from each pixel to the nearest dark one. D is zero where
    its own picture is dark, so that the middle term is how far each picture lies from the other:
    their Chamfer distance (Barrow et al., 1977). The first term ranks what is closer than a blur,
    the last one is as smooth as the fields.

    Args:
        image_size: S.
        latent_dim: D.
    """

    def __init__(self, image_size: int, latent_dim: int):
        super().__init__(image_size, latent_dim)
        self.register_buffer("smooth", torch.eye(image_size))  # blurs along one axis
        self.register_buffer("dark", torch.tensor(0.5))  # a pixel that is darker is something
        self.register_buffer("field", torch.tensor(0.0))  # weight w of the distances, per px

    smooth: Tensor
    dark: Tensor
    field: Tensor

    def features(self, pixels: Tensor) -> Tensor:
        greys = self.greys(pixels)
        distance = distance_transform(greys > self.dark).to(greys.dtype)
        return (self.smooth @ greys @ self.smooth.T - self.field * distance).flatten(1)


def darkness(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """Pixels (N, S, S, 3) uint8 → (N, 3, S, S), where white is zero, so that an even ground gives
    an even feature map."""
    return 1.0 - pixels.permute(0, 3, 1, 2).to(dtype) / 255.0
