"""Pictures for environments that have none in their observations."""

from __future__ import annotations

from typing import Any

import cv2
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs


class ResizePixels(gym.ObservationWrapper, RecordConstructorArgs):
    """Makes the picture in a dict observation (S, S, 3), as world models take it.

    For use over Gymnasium's AddRenderObservation, which adds a picture of the size that the
    environment renders; ResizeObservation takes no dicts.

    Args:
        env: its observations are a dict with a picture (height, width, 3) uint8.
        size: S, pixels per side; a multiple of 8 for the family "compact".
        key: the picture's entry.

    Raises ValueError where there is no such picture.
    """

    def __init__(self, env: gym.Env, size: int = 64, key: str = "pixels"):
        RecordConstructorArgs.__init__(self, size=size, key=key)
        gym.ObservationWrapper.__init__(self, env)
        space: Any = env.observation_space
        picture = space.spaces.get(key) if isinstance(space, spaces.Dict) else None
        if not isinstance(picture, spaces.Box) or picture.shape[2:] != (3,):
            raise ValueError(
                f"the observation is {space}, expected a dict with a picture {key!r}; put "
                "gymnasium.wrappers.AddRenderObservation(env, render_only=False) before this"
            )
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.size, self.key = size, key
        small = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = spaces.Dict({**space.spaces, key: small})

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The same with a small picture; areas are averaged."""
        small = cv2.resize(
            observation[self.key], (self.size, self.size), interpolation=cv2.INTER_AREA
        )
        return {**observation, self.key: small}
