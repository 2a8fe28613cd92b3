"""Pieces of training episodes that are kept with a model, for plans to start from."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from ..data.latents import LatentDataset
from ..proposals import project
from ..world_model import LatentWorldModel, WorldModelConfig
from .principal import principal_directions

log = logging.getLogger(__name__)

Shape = TypeVar("Shape", bound=WorldModelConfig)


def with_proposals(shape: Shape, lengths: np.ndarray, copies: int) -> Shape:
    """The shape with no more proposals than there are pieces of episodes with so many frames.

    Raises:
        ValueError: none is long enough.
    """
    if shape.proposals == 0:
        return shape
    span = shape.proposal_steps * shape.frameskip
    pieces = copies * int(np.maximum(lengths - span, 0).sum())
    if pieces == 0:
        raise ValueError(
            f"no episode has the {span + 1} frames of a proposal; give fewer `proposal_steps`, or "
            "proposals=0"
        )
    if pieces < shape.proposals:
        log.info("the data have %d pieces for %d proposals", pieces, shape.proposals)
    return replace(shape, proposals=min(shape.proposals, pieces))


def keep_proposals(
    model: LatentWorldModel, latents: LatentDataset, episodes: np.ndarray, seed: int
) -> None:
    """Cut plans (K, proposal_steps, M) from training episodes at random, none twice, with their
    keys."""
    shape = model.config
    if shape.proposals == 0:
        return
    frames = shape.proposal_steps + 1
    rows = latents.every(episodes, frames, shape.frameskip)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    joined, actions = latents.window(rows[order[: shape.proposals]], frames, shape.frameskip)
    model.proposals.copy_(actions)
    if shape.proposal_keys:
        along = model.split(joined)
        visual = along.visual.flatten(-2)
        components = model.proposal_basis.shape[1]
        basis = principal_directions(visual.flatten(0, 1), components)
        model.proposal_basis.copy_(basis)
        model.proposal_keys.copy_(project(along, basis))
