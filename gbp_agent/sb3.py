"""What Stable-Baselines3 needs to learn on the state version of goal-reaching environments."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor


class ScaledObservations(BaseFeaturesExtractor):
    """All entries of a dict of vectors side by side, scaled from their bounds to -1…1.

    For `policy_kwargs={"features_extractor_class": ScaledObservations}`: states in pixels and
    velocities are of very different sizes, and the environment's own numbers stay as they are, so
    that hindsight rewards are computed from them.

    Raises ValueError for an entry that is no vector with finite bounds.
    """

    low: Tensor
    span: Tensor

    def __init__(self, observation_space: spaces.Dict):
        low, high = [], []
        for key, space in observation_space.spaces.items():
            if not isinstance(space, spaces.Box) or not space.is_bounded() or len(space.shape) != 1:
                raise ValueError(
                    f"entry {key!r} of the observation is {space}, expected a vector with finite "
                    'bounds; make the env with obs_type="state"'
                )
            low.append(space.low)
            high.append(space.high)
        super().__init__(observation_space, sum(map(len, low)))
        lowest, highest = (torch.from_numpy(np.concatenate(part)).float() for part in (low, high))
        self.register_buffer("low", lowest)
        self.register_buffer("span", highest - lowest)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Entries (N, n) → (N, all of them)."""
        space = self._observation_space
        assert isinstance(space, spaces.Dict)
        joined = torch.cat([observations[key] for key in space.spaces], -1)
        return 2 * (joined - self.low) / self.span - 1
