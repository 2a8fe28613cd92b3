"""Predictors of the compact family."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class MLPPredictor(nn.Module):
    """Residual MLP: T latents and T model actions → the change of the last latent.

    Args:
        latent_dim: L, width of a latent (visual and proprioceptive part side by side).
        model_action_dim: M.
        history: T.
        width: hidden units.
        depth: residual blocks.
    """

    def __init__(
        self, latent_dim: int, model_action_dim: int, history: int, width: int, depth: int
    ):
        super().__init__()
        self.input = nn.Linear(history * (latent_dim + model_action_dim), width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
            )
            for _ in range(depth)
        )
        self.output = nn.Linear(width, latent_dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def embed(self, model_actions: Tensor) -> Tensor:
        """Model actions (N, T, M), oldest first → what they add to the first hidden units,
        (N, width)."""
        flat = model_actions.flatten(1)
        return F.linear(flat, self.input.weight[:, -flat.shape[1] :])

    def forward(self, latents: Tensor, embedded_actions: Tensor) -> Tensor:
        """Latents (N, T, L), oldest first, embedded actions (N, width) → the next latent (N, L)."""
        flat = latents.flatten(1)
        weight = self.input.weight[:, : flat.shape[1]]
        hidden = F.linear(flat, weight, self.input.bias) + embedded_actions
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return latents[:, -1] + self.output(hidden)
