"""What predictors of vectors make of an action."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .linear import Linear


class ActionEmbedding(nn.Module):
    """An MLP of the action's numbers beside their sines and cosines at so many octaves.

    What a push does turns sharply with where it begins and ends. A linear map leaves that to the
    layers behind, which roll-outs go through at every step; this is computed once for a plan.
    Source: random Fourier features, arXiv 2006.10739; the octaves are NeRF's, arXiv 2003.08934.

    Args:
        action_dim: A.
        width: hidden units, and numbers of an embedding.
        frequencies: K ≥ 1; the slowest has a period of 8 of the action's standard deviations.
    """

    def __init__(self, action_dim: int, width: int, frequencies: int):
        super().__init__()
        octaves = math.pi / 4 * 2.0 ** torch.arange(frequencies)
        self.register_buffer("octaves", octaves, persistent=False)
        self.layers = nn.Sequential(
            Linear(action_dim * (1 + 2 * frequencies), width),
            nn.GELU(),
            Linear(width, width),
            nn.GELU(),
            Linear(width, width),
        )

    octaves: Tensor

    def forward(self, actions: Tensor) -> Tensor:
        """Actions (..., A) → embeddings (..., width)."""
        angles = (actions[..., None] * self.octaves).flatten(-2)
        found: Tensor = self.layers(torch.cat([actions, angles.sin(), angles.cos()], -1))
        return found
