"""Predictors of the compact family."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .actions import ActionEmbedding
from .frozen_unroll import Layers, frozen_unroll
from .linear import forget, unchanged


class MLPPredictor(nn.Module):
    """Residual MLP: T latents and T model actions → the change of the last latent.

    With `substeps` the same network is applied that many times in a row, to a share of the model
    action each: what happens in one environment step, such as running into a wall, is far simpler
    than what happens in five.

    With `gated` each number's change is multiplied by a gate between 0 and 1, as in highway
    networks (arXiv 1505.00387): that nothing happens, as where an action touches nothing, is then
    learnt closely, and a planner is not drawn to what is promised there.

    Args:
        latent_dim: L, width of a latent (visual and proprioceptive part side by side).
        model_action_dim: M.
        history: T.
        width: hidden units.
        depth: residual blocks.
        substeps: S, a divisor of the frameskip; with S > 1 the history must be 1.
        gated: whether changes are gated.
        action_frequencies: K, of an ActionEmbedding; 0 for a linear map of the action.
    """

    def __init__(
        self,
        latent_dim: int,
        model_action_dim: int,
        history: int,
        width: int,
        depth: int,
        substeps: int = 1,
        gated: bool = False,
        action_frequencies: int = 0,
    ):
        super().__init__()
        self.substeps, self.gated = substeps, gated
        self.action_width = history * model_action_dim // substeps
        self.latent_width = history * latent_dim
        self.actions: ActionEmbedding | None = None
        if action_frequencies:
            self.actions = ActionEmbedding(self.action_width, width, action_frequencies)
        linear = 0 if action_frequencies else self.action_width
        self.input = nn.Linear(self.latent_width + linear, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
            )
            for _ in range(depth)
        )
        # Changes, and the gates' logits behind them.
        self.output = nn.Linear(width, 2 * latent_dim if gated else latent_dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def embed(self, model_actions: Tensor) -> Tensor:
        """Model actions (..., T, M), oldest first → what they add to the first hidden units of
        each substep, (..., S, width)."""
        shares = model_actions.flatten(-2).unflatten(-1, (self.substeps, self.action_width))
        if self.actions is not None:
            found: Tensor = self.actions(shares)
            return found
        return F.linear(shares, self.input.weight[:, self.latent_width :])

    def unroll(
        self, latents: Tensor, embedded_actions: Tensor, checkpointed: bool = False
    ) -> Tensor:
        """Latents (N, T, L), oldest first, embedded actions of K substeps (N, K, width) → the
        latents (N, K, L) after each. K may be of several model steps where T is 1.

        Without training, that is where no weight wants a gradient, this is several times as fast,
        and can be differentiated once only. checkpointed: whether torch.utils.checkpoint calls.
        """
        layers = self.frozen_layers(latents)
        if layers is None:
            return self.unroll_by_modules(latents, embedded_actions)
        return frozen_unroll(latents[:, 0], embedded_actions, [layers], checkpointed)

    def frozen_layers(self, latents: Tensor) -> Layers | None:
        """What `frozen_unroll` takes, if these latents (N, T, L) can go through it: one frame, and
        weights that nobody trains."""
        weights = [*self.input.parameters(), *self.blocks.parameters(), *self.output.parameters()]
        if torch.compiler.is_compiling() or torch.is_autocast_enabled(latents.device.type):
            return None
        if any(weight.requires_grad for weight in weights):
            forget(self)
            return None
        if latents.shape[1] > 1 or any(weight.device != latents.device for weight in weights):
            return None
        return unchanged(
            self,
            weights,
            lambda: Layers.of(self._latent_weight, self.input.bias, self.blocks, self.output),
        )

    def unroll_by_modules(self, latents: Tensor, embedded_actions: Tensor) -> Tensor:
        """The same, always as PyTorch's modules compute and differentiate it."""
        weight, flat, latent = self._latent_weight, latents.flatten(1), latents[:, -1]
        found = []
        for embedded in embedded_actions.unbind(1):
            hidden = F.linear(flat, weight, self.input.bias) + embedded
            for block in self.blocks:
                hidden = hidden + block(hidden)
            change = self.output(hidden)
            latent = flat = latent + (F.glu(change) if self.gated else change)
            found.append(latent)
        return torch.stack(found, 1)

    @property
    def _latent_weight(self) -> Tensor:
        """Of the first layer, the part that multiplies latents."""
        return self.input.weight[:, : self.latent_width]

    def forward(self, latents: Tensor, embedded_actions: Tensor) -> Tensor:
        """The next latent (N, L), one model step on; arguments as for `unroll`."""
        return self.unroll(latents, embedded_actions)[:, -1]
