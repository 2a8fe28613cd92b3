"""The agents that everything has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class RandomAgent:
    """Draws every action uniformly from the action space.

    Args:
        observation_space, action_space: of one env; the action space a Box with finite bounds.
        seed: of the draws. Rows of a batch share one stream.

    Raises ValueError for another action space.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], seed: int = 0
    ):
        if not isinstance(action_space, spaces.Box) or not action_space.is_bounded():
            raise ValueError(f"action space is {action_space}, expected a Box with finite bounds")
        self.observation_space = observation_space
        self.action_space = action_space
        self._random = np.random.default_rng(seed)

    @classmethod
    def for_env(cls, env_id: str, seed: int = 0, **env_kwargs: Any) -> RandomAgent:
        """With the spaces of `gymnasium.make(env_id, **env_kwargs)`."""
        with gym.make(env_id, **env_kwargs) as env:
            agent = cls(env.observation_space, env.action_space, seed)
        return agent

    def predict(
        self,
        observation: Any,
        state: None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, None]:
        """Stable-Baselines3's protocol: an action (A,), or (B, A) for a batch; and no state."""
        space, value = self.observation_space, observation
        while isinstance(space, spaces.Dict) and isinstance(value, Mapping):
            key = next(iter(space))
            space, value = space[key], value[key]
        single = np.ndim(value) == len(space.shape or ())
        low, high = self.action_space.low, self.action_space.high
        shape = low.shape if single else (len(value), *low.shape)
        # Rounding to float32 may step over a bound.
        return np.clip(self._draw(shape).astype(self.action_space.dtype), low, high), None

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._random.uniform(self.action_space.low, self.action_space.high, shape)


class NoOpAgent(RandomAgent):
    """Acts zeros, or the bound next to zero: in our environments it does nothing, so that a final
    distance to compare with is the first one. Arguments as for RandomAgent; `seed` is unused."""

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape)
