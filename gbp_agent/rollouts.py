"""How an agent calls its model's roll-out in planning."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from torch import Tensor

from .mpc import MPCConfig
from .types import Latent
from .world_model import LatentWorldModel


class Rollout(Protocol):
    """`WorldModel.rollout` as a function."""

    def __call__(self, start: Latent, past_actions: Tensor, model_actions: Tensor) -> Latent: ...


def make_rollout(model: LatentWorldModel, config: MPCConfig) -> Rollout:
    """The model's roll-out as the settings want it: `checkpoint_activations`."""
    if config.checkpoint_activations:
        return partial(model.rollout, checkpoint_activations=True)
    return model.rollout
