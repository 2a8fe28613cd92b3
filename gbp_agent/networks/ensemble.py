"""Several predictors side by side, each for a token of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .frozen_unroll import frozen_unroll
from .predictor import MLPPredictor
from .push import PushPredictor


class EnsemblePredictor(nn.Module):
    """K predictors, each of which goes on from what it predicted itself.

    A latent has a token for each of them, which are the same where a picture is encoded, and one
    proprioception, the mean of what they predict. So the mean squared distance to a goal, over all
    tokens, is that of their mean and their variance besides: a plan costs more where they do not
    agree, which is where the data know little.
    Source: ensembles of dynamics models, PETS, arXiv 1805.12114.

    Args:
        members: K ≥ 1 predictors of vectors (D + E,), of one shape.
        token_width: D, numbers of a token; a latent has L = K·D + E.
    """

    def __init__(self, members: Sequence[MLPPredictor | PushPredictor], token_width: int):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.token_width = token_width

    def embed(self, model_actions: Tensor) -> Tensor:
        """Model actions (..., T, M), oldest first → for each substep what the members make of them,
        side by side (..., S, K·width)."""
        return torch.cat([member.embed(model_actions) for member in self._members()], -1)

    def unroll(
        self, latents: Tensor, embedded_actions: Tensor, checkpointed: bool = False
    ) -> Tensor:
        """Latents (N, T, L), oldest first, and the embedded actions of n substeps → the latents
        (N, n, L) after each. n may be of several model steps where T is 1. checkpointed: whether
        torch.utils.checkpoint calls."""
        members = [member.frozen_layers(latents) for member in self._members()]
        frozen = [layers for layers in members if layers is not None]
        if len(frozen) == len(members):
            return frozen_unroll(latents[:, 0], embedded_actions, frozen, checkpointed)
        found = []
        for embedded in embedded_actions.split(1, 1):
            latents = self._next(latents, embedded)
            found.append(latents)
        return torch.cat(found, 1)

    def forward(self, latents: Tensor, embedded_actions: Tensor) -> Tensor:
        """The next latent (N, L), one model step on; arguments as for `unroll`."""
        return self.unroll(latents, embedded_actions)[:, -1]

    def _next(self, latents: Tensor, embedded: Tensor) -> Tensor:
        """One substep: latents (N, 1, L) from (N, T, L)."""
        count, width = len(self.members), self.token_width
        tokens, proprio = latents[..., : count * width], latents[..., count * width :]
        mine = zip(self._members(), tokens.split(width, -1), embedded.chunk(count, -1), strict=True)
        after = [member.unroll(torch.cat([t, proprio], -1), e) for member, t, e in mine]
        sensed = torch.stack([vector[..., width:] for vector in after]).mean(0)
        return torch.cat([*(vector[..., :width] for vector in after), sensed], -1)

    def _members(self) -> Iterable[MLPPredictor | PushPredictor]:
        return cast("Iterable[MLPPredictor | PushPredictor]", self.members)
