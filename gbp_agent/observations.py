"""Which part of an observation is what, and whether it can be planned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .types import Observation
from .world_model import WorldModelConfig


@dataclass(frozen=True)
class ObservationKeys:
    """Names of an observation's entries.

    pixels, goal_pixels: uint8 (S, S, 3). proprio, goal_proprio: float (p,), env units.
    """

    pixels: str = "pixels"
    proprio: str = "proprio"
    goal_pixels: str = "goal_pixels"
    goal_proprio: str = "goal_proprio"

    def as_goal(self, goal: Observation, observation: Observation) -> dict[str, np.ndarray]:
        """`goal`, an observation of the goal, under the goal's names, repeated for a batch."""
        found = {}
        for name, goal_name in (
            (self.pixels, self.goal_pixels),
            (self.proprio, self.goal_proprio),
        ):
            if name not in goal:
                raise KeyError(f"the goal has no {name!r}, only {', '.join(map(repr, goal))}")
            value = np.asarray(goal[name])
            if name in observation:
                value = np.broadcast_to(value, np.shape(observation[name]))
            found[goal_name] = value
        return found


def check_observation(
    observation: Observation, keys: ObservationKeys, config: WorldModelConfig
) -> tuple[dict[str, np.ndarray], bool]:
    """The entries that are needed, with a leading batch dimension, and whether it was added.

    Raises:
        KeyError: an entry is missing.
        ValueError: no mapping; a shape or type that the model was not trained on; not finite.
    """
    if not isinstance(observation, Mapping):
        raise ValueError(
            f"observation is a {type(observation).__name__}, expected a dict with "
            f'{keys.pixels!r} and {keys.proprio!r}; make the env with obs_type="pixels"'
        )
    size = config.image_size
    wanted = {
        keys.pixels: (size, size, 3),
        keys.proprio: (config.proprio_dim,),
        keys.goal_pixels: (size, size, 3),
        keys.goal_proprio: (config.proprio_dim,),
    }
    parts: dict[str, np.ndarray] = {}
    for key, shape in wanted.items():
        if key not in observation:
            present = ", ".join(repr(k) for k in observation)
            remedy = "; or give the goal with agent.set_goal(...)" if "goal" in key else ""
            raise KeyError(f"observation has no {key!r}, only {present}{remedy}")
        value = np.asarray(observation[key])
        if value.shape[-len(shape) :] != shape or value.ndim not in (len(shape), len(shape) + 1):
            raise ValueError(
                f"observation[{key!r}] has shape {value.shape}, expected {shape} or a batch of "
                f"it; the model was trained on {config.env_id} with image_size={size}"
            )
        if len(shape) == 3 and value.dtype != np.uint8:
            raise ValueError(f"observation[{key!r}] is {value.dtype}, expected uint8 in 0…255")
        if len(shape) == 1 and not np.all(np.isfinite(value)):
            raise ValueError(f"observation[{key!r}] must be finite, got {value}")
        parts[key] = value
    single = parts[keys.proprio].ndim == 1
    if single:
        parts = {key: value[None] for key, value in parts.items()}
    rows = {key: len(value) for key, value in parts.items() if value.ndim in (2, 4)}
    if len(rows) != len(parts) or len(set(rows.values())) != 1:
        raise ValueError(f"observation has batches of different sizes: {rows}")
    floats = (keys.proprio, keys.goal_proprio)
    return {k: v.astype(np.float32) if k in floats else v for k, v in parts.items()}, single
