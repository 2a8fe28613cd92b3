"""Where plans may start: action sequences of the training data, the same for all or the nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from .objectives import GoalObjective
from .types import Latent, Objective
from .world_model import LatentWorldModel


class Proposals:
    """What an agent gives its planner to start from: called with B problems, (K, H, M) for all of
    them, or (B, K, H, M) for each.

    Of a model without `proposal_keys` they are the first `count` of its proposals. With keys they
    are those `count` pieces of H model steps, out of all pieces of all proposals, that would cost
    least if the model's latents went the way that they went in the data, where the distance from
    the problem's start to the piece's is paid as well: a look-up of nearest neighbours, which needs
    no roll-out. It takes a GoalObjective to know what is near.

    model: with its proposals; where they are shorter than the horizon there are none.
    objective: the agent's. count: at most so many; None takes as many as the model has proposals.
    horizon: H.
    """

    def __init__(
        self, model: LatentWorldModel, objective: Objective, count: int | None, horizon: int
    ):
        number, steps, width = model.proposals.shape
        self._horizon = horizon
        self._plain = model.proposals[:count, :horizon]
        if steps < horizon:  # too short to be of use
            self._plain = model.proposals.new_zeros(0, horizon, width)
        self._objective: GoalObjective | None = None
        if not model.config.proposal_keys or not len(self._plain):
            return
        if isinstance(objective, GoalObjective):
            self._objective = objective
            self._basis = model.proposal_basis
            visual = model.tokens * model.token_width
            scales = objective.scales(visual, model.latent_width - visual)
            self._scales = scales.to(model.device)
            self._keys = self._scaled(model.proposal_keys.float())  # (number, P + 1, C + E)
            self._squares = self._keys.square().sum(-1).flatten()
            pieces = number * (steps - horizon + 1)
            self._count = min(number if count is None else count, pieces)
            self._pieces = model.proposals.unfold(1, horizon, 1).transpose(2, 3)

    def __call__(self, start: Latent, goal: Latent) -> Tensor:
        """Proposals for B problems: start Latent (B, T), goal Latent (B,)."""
        if self._objective is None:
            return self._plain
        last = Latent(*(part[:, -1] for part in start))
        from_start, from_goal = self._distances(last), self._distances(goal)  # (B, number, P + 1)
        ends = from_goal[:, :, 1:].unfold(2, self._horizon, 1)  # (B, number, pieces of one, H)
        found = []
        for begun, ended in zip(from_start, ends, strict=True):
            pieces = ended.shape[1]
            going = self._objective.total(ended.flatten(0, 1))
            cost = begun[:, :pieces].flatten() + going
            nearest = cost.topk(self._count, largest=False).indices
            found.append(self._pieces[nearest // pieces, nearest % pieces])
        return torch.stack(found)

    def _distances(self, latent: Latent) -> Tensor:
        """What the objective says of Latent (B,) and every step of every proposal,
        (B, number, P + 1)."""
        keys = self._scaled(project(latent, self._basis))
        flat = self._keys.flatten(0, 1)
        squares = keys.square().sum(1, keepdim=True)
        away = torch.addmm(self._squares, keys, flat.T, alpha=-2) + squares
        return away.clamp_(min=0).unflatten(1, self._keys.shape[:2])

    def _scaled(self, keys: Tensor) -> Tensor:
        visual, proprio = self._scales[0], self._scales[1:]
        components = keys.shape[-1] - len(proprio)
        return torch.cat([keys[..., :components] * visual, keys[..., components:] * proprio], -1)


def project(latent: Latent, basis: Tensor) -> Tensor:
    """Latent (...) → keys (..., C + E): the components of the visual part along the basis (P·D, C),
    beside the proprioception."""
    return torch.cat([latent.visual.flatten(-2) @ basis, latent.proprio], -1)


def principal_directions(visual: Tensor, count: int) -> Tensor:
    """The (width, count) orthonormal directions along which (N, width) vary most."""
    centred = (visual - visual.mean(0)).double()
    _, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
    return directions.flip(1)[:, :count].to(visual.dtype)
