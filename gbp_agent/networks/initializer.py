"""The initialisation network: a first guess of a plan, for a planner to improve."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PlanInitializer(nn.Module):
    """MLP from the latents of the present and of the goal to a plan.

    Args:
        latent_dim: L, width of a latent (visual and proprioceptive part side by side).
        model_action_dim: M.
        steps: H, model steps of the plan.
        width: hidden units.

    Source: the initialisation network g of arXiv 2512.09929.
    """

    def __init__(self, latent_dim: int, model_action_dim: int, steps: int, width: int):
        super().__init__()
        self.steps = steps
        self.layers = nn.Sequential(
            nn.Linear(2 * latent_dim, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, steps * model_action_dim),
        )

    def forward(self, start: Tensor, goal: Tensor) -> Tensor:
        """Latents (N, L) of the present and of the goal → model actions (N, H, M)."""
        plan: Tensor = self.layers(torch.cat([start, goal], -1))
        return plan.unflatten(1, (self.steps, -1))
