"""Where plans may start: action sequences of the training data, the nearest or some drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .objectives import GoalObjective
from .types import Latent, Objective
from .world_model import LatentWorldModel

Propose = Callable[[Latent, Latent, np.ndarray], Tensor]
"""(start Latent (B, T), goal Latent (B,), plans that were made before in each episode (B,)) →
proposals (K, H, M) for all B problems, or (B, K, H, M) for each."""


def make_proposals(
    model: LatentWorldModel, objective: Objective, count: int | None, horizon: int
) -> Propose:
    """What an agent gives its planner to start from.

    With a model that has `proposal_keys` and a GoalObjective, which knows what is near, they are
    the nearest; otherwise `count` of the model's proposals, others for every plan of an episode.
    There are none where the model's are shorter than the horizon.

    count: at most so many; None takes as many as the model has. horizon: H.
    """
    number, steps, width = model.proposals.shape
    if steps < horizon:  # too short to be of use
        return DrawnProposals(model.proposals.new_zeros(0, horizon, width), 0)
    most = number if count is None else count
    if model.config.proposal_keys and number and most and isinstance(objective, GoalObjective):
        return NearestProposals(model, objective, most, horizon)
    return DrawnProposals(model.proposals[:, :horizon], most)


class DrawnProposals:
    """`count` of the proposals (number, H, M), others for every plan of an episode: an agent whose
    action has changed nothing, and which sees what it saw before, does not plan the same for ever.
    The first plan takes the first ones, every other draws its own, the same in all episodes."""

    def __init__(self, proposals: Tensor, count: int):
        self._proposals = proposals
        self._count = min(count, len(proposals))

    def __call__(self, start: Latent, goal: Latent, plans: np.ndarray) -> Tensor:
        """Proposals (K, H, M) where all episodes are at the same plan, (B, K, H, M) otherwise."""
        if self._count == len(self._proposals):
            return self._proposals
        drawn = {plan: self._draw(plan) for plan in set(plans.tolist())}
        if len(drawn) == 1:
            return next(iter(drawn.values()))
        return torch.stack([drawn[plan] for plan in plans.tolist()])

    def _draw(self, plan: int) -> Tensor:
        if plan == 0:
            return self._proposals[: self._count]
        order = np.random.default_rng(plan).permutation(len(self._proposals))
        return self._proposals[torch.from_numpy(order[: self._count]).to(self._proposals.device)]


class NearestProposals:
    """Those `count` pieces of H model steps, out of all pieces of all proposals, that would cost
    least if the model's latents went the way that they went in the data, where the distance from
    the problem's start to the piece's is paid as well: a look-up of nearest neighbours, which needs
    no roll-out. Arguments as for `make_proposals`."""

    def __init__(self, model: LatentWorldModel, objective: GoalObjective, count: int, horizon: int):
        self._objective, self._horizon = objective, horizon
        self._basis = model.proposal_basis
        visual = model.tokens * model.token_width
        self._scales = objective.scales(visual, model.latent_width - visual).to(model.device)
        keys = self._scaled(model.proposal_keys.to(model.proposals.dtype))
        self._shape = keys.shape[:2]  # (number, P + 1)
        self._squares = keys.square().sum(-1).flatten()
        self._keys = keys.flatten(0, 1).T.contiguous()  # (C + E, number·(P + 1))
        # (number, pieces of one, H, M), a view
        self._pieces = model.proposals.unfold(1, horizon, 1).transpose(2, 3)
        self._count = min(count, self._pieces.shape[:2].numel())
        self._goal: Latent | None = None  # of the last call, and what it says of all pieces
        self._going = keys.new_zeros(0)

    def __call__(self, start: Latent, goal: Latent, plans: np.ndarray) -> Tensor:
        """Proposals (B, K, H, M), start Latent (B, T), goal Latent (B,)."""
        pieces = self._pieces.shape[1]  # of each proposal
        going, last = self._costs_to(goal), Latent(*(part[:, -1] for part in start))
        cost = self._distances(last)[:, :, :pieces].flatten(1) + going
        nearest = cost.topk(self._count, largest=False).indices
        return self._pieces[nearest // pieces, nearest % pieces]

    def _costs_to(self, goal: Latent) -> Tensor:
        """What going on as each piece does would cost (B, number·pieces of one), kept until the
        goals change."""
        known = self._goal
        if known is None or not all(map(torch.equal, goal, known)):
            ends = self._distances(goal)[:, :, 1:].unfold(2, self._horizon, 1)
            going = ends.new_empty(len(ends), self._pieces.shape[:2].numel())
            for row, ended in zip(going, ends, strict=True):  # one at a time, for memory's sake
                row.copy_(self._objective.total(ended.flatten(0, 1)))
            self._goal, self._going = Latent(*(part.clone() for part in goal)), going
        return self._going

    def _distances(self, latent: Latent) -> Tensor:
        """What the objective says of Latent (B,) and every step of every proposal,
        (B, number, P + 1)."""
        keys = self._scaled(project(latent, self._basis))
        squares = keys.square().sum(1, keepdim=True)
        away = torch.addmm(self._squares, keys, self._keys, alpha=-2) + squares
        return away.clamp_(min=0).unflatten(1, self._shape)

    def _scaled(self, keys: Tensor) -> Tensor:
        visual, proprio = self._scales[0], self._scales[1:]
        components = keys.shape[-1] - len(proprio)
        return torch.cat([keys[..., :components] * visual, keys[..., components:] * proprio], -1)


def project(latent: Latent, basis: Tensor) -> Tensor:
    """Latent (...) → keys (..., C + E): the components of the visual part along the basis (P·D, C),
    beside the proprioception."""
    return torch.cat([latent.visual.flatten(-2) @ basis, latent.proprio], -1)
