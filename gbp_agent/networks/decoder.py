"""Picture decoders; for looking at latents, and as a training signal where a config says so."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class _Decoder(nn.Module):
    """What decoders have in common."""

    def forward(self, visual: Tensor, proprio: Tensor) -> Tensor:
        """Latents (N, D) and (N, E) → darkness per channel (N, 3, S, S), 0 white to 1 black, not
        clipped."""
        raise NotImplementedError

    @torch.no_grad()
    def to_pixels(self, visual: Tensor, proprio: Tensor) -> Tensor:
        """Latents (..., D) and (..., E) → pixels (..., S, S, 3) uint8."""
        darkness = self(visual.flatten(0, -2), proprio.flatten(0, -2)).clamp(0, 1)
        pixels = (255 * (1 - darkness)).round().to(torch.uint8).permute(0, 2, 3, 1)
        return pixels.unflatten(0, visual.shape[:-1])


class ConvDecoder(_Decoder):
    """One latent vector and the proprioception → a picture.

    Where the proprioception is given (proprio_dim > 0), the visual latent need not repeat it.

    Args:
        image_size: S, a multiple of 8.
        latent_dim: D. proprio_dim: E, or 0 to decode from the visual latent alone.
        width: channels before the last convolution.
    """

    def __init__(self, image_size: int, latent_dim: int, proprio_dim: int, width: int = 16):
        super().__init__()
        if image_size % 8:
            raise ValueError(f"image_size must be a multiple of 8, got {image_size}")
        self.side = image_size // 8
        self.proprio_dim = proprio_dim
        self.entry = nn.Linear(latent_dim + proprio_dim, 256)
        self.spread = nn.Sequential(
            nn.GELU(),
            nn.Linear(256, 4 * width * self.side**2),
            nn.GELU(),
        )
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(4 * width, 4 * width, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1),
            nn.GELU(),
            nn.ConvTranspose2d(2 * width, 3, 4, stride=2, padding=1),
        )

    def forward(self, visual: Tensor, proprio: Tensor) -> Tensor:
        maps = self.spread(self.entry(torch.cat([visual, proprio[:, : self.proprio_dim]], -1)))
        pictures: Tensor = self.upsample(maps.unflatten(1, (-1, self.side, self.side)))
        return pictures


class LinearDecoder(_Decoder):
    """A linear map from one latent vector to a picture.

    Args:
        image_size: S.
        latent_dim: D.
    """

    def __init__(self, image_size: int, latent_dim: int):
        super().__init__()
        self.side = image_size
        self.entry = nn.Linear(latent_dim, 3 * image_size**2)

    def forward(self, visual: Tensor, proprio: Tensor) -> Tensor:
        pictures: Tensor = self.entry(visual).unflatten(1, (3, self.side, self.side))
        return pictures
