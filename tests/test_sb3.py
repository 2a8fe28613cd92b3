"""Helpers for Stable-Baselines3."""

from __future__ import annotations

import gbp_envs  # noqa: F401  (registers gbp/…)
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from gbp_agent.baselines.sb3 import ScaledObservations


def test_bounds_become_one() -> None:
    with gym.make("gbp/PushT-v0", obs_type="state") as env:
        space = env.observation_space
    extractor = ScaledObservations(space)
    assert extractor.features_dim == 17  # 7 + 5 + 5
    for end, wanted in (("low", -1.0), ("high", 1.0)):
        parts = {
            key: torch.from_numpy(np.stack([getattr(part, end)] * 2)) for key, part in space.items()
        }
        torch.testing.assert_close(extractor(parts), torch.full((2, 17), wanted))


@pytest.mark.parametrize(
    "entry", [spaces.Box(-np.inf, np.inf, (2,)), spaces.Box(0, 255, (4, 4, 3), np.uint8)]
)
def test_entries_that_are_no_bounded_vectors(entry: spaces.Box) -> None:
    with pytest.raises(ValueError, match="expected a vector with finite bounds"):
        ScaledObservations(spaces.Dict({"observation": entry}))
