"""Which part of an observation is what, and whether it can be planned from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .types import Observation
from .world_model import WorldModelConfig

PARTS = ("pixels", "proprio", "goal_pixels", "goal_proprio")
NO_PICTURE = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class ObservationKeys:
    """Names of an observation's entries.

    pixels, goal_pixels: uint8 (S, S, 3); None where there is no picture, as for models of state
        vectors. proprio, goal_proprio: float (p,), env units.

    An observation that is an array and no dict is the proprioception alone.
    """

    pixels: str | None = "pixels"
    proprio: str = "proprio"
    goal_pixels: str | None = "goal_pixels"
    goal_proprio: str = "goal_proprio"

    def as_dict(self, observation: Any) -> Observation:
        """The observation, or a dict of it where it is an array."""
        if isinstance(observation, Mapping):
            return observation
        return {self.proprio: np.asarray(observation)}

    def as_goal(self, goal: Any, observation: Observation) -> dict[str, np.ndarray]:
        """`goal`, an observation of the goal, under the goal's names, repeated for a batch."""
        goal, found = self.as_dict(goal), {}
        for name, goal_name in (
            (self.pixels, self.goal_pixels),
            (self.proprio, self.goal_proprio),
        ):
            if name is None or goal_name is None or name not in {*goal, *observation}:
                continue
            if name not in goal:
                raise KeyError(f"the goal has no {name!r}, only {', '.join(map(repr, goal))}")
            value = np.asarray(goal[name])
            if name in observation:
                shape, single = np.shape(observation[name]), 3 if name == self.pixels else 1
                if value.shape == (1, *shape[-single:]):
                    value = value[0]
                if value.shape not in (shape, shape[-single:]):
                    raise ValueError(
                        f"the goal's {name!r} has shape {value.shape}, expected "
                        f"{shape[-single:]}, as observations have"
                    )
                value = np.broadcast_to(value, shape)
            found[goal_name] = value
        return found

    def frame(self, observation: Any) -> tuple[np.ndarray, np.ndarray]:
        """Picture (S, S, 3) uint8, of 0 px where there is none, and proprioception (p,) float32.

        Raises:
            KeyError: an entry is missing.
        """
        parts = self.as_dict(observation)
        for name in (self.pixels if isinstance(observation, Mapping) else None, self.proprio):
            if name is not None and name not in parts:
                present = ", ".join(repr(key) for key in parts)
                raise KeyError(f"observation has no {name!r}, only {present}; give other keys")
        has_picture = self.pixels is not None and self.pixels in parts
        picture = np.asarray(parts[self.pixels]) if has_picture else NO_PICTURE  # type: ignore[index]
        return picture, np.asarray(parts[self.proprio], np.float32)


def check_observation(
    observation: Any, keys: ObservationKeys, config: WorldModelConfig, goal: bool = True
) -> tuple[dict[str, np.ndarray], bool]:
    """The entries that are needed, by the names in PARTS and with a leading batch dimension, and
    whether that was added.

    goal: whether there has to be one; without, the observation stands in its place.

    Raises:
        KeyError: an entry is missing.
        ValueError: no mapping; a shape or type that the model was not trained on; not finite.
    """
    size = config.image_size
    if not isinstance(observation, Mapping):
        if size or not isinstance(observation, np.ndarray):
            expected = f"an array or a dict with {keys.proprio!r}"
            if size:
                expected = (
                    f"a dict with {keys.pixels!r} and {keys.proprio!r}; make the env with "
                    'obs_type="pixels"'
                )
            raise ValueError(f"observation is a {type(observation).__name__}, expected {expected}")
        observation = keys.as_dict(observation)
    shapes = {"pixels": (size, size, 3), "proprio": (config.proprio_dim,)}
    parts: dict[str, np.ndarray] = {}
    for part in PARTS if goal else PARTS[:2]:
        shape, key = shapes[part.removeprefix("goal_")], getattr(keys, part)
        if 0 in shape:
            continue
        if key not in observation:
            present = ", ".join(repr(k) for k in observation)
            remedy = "; make the env with obs_type='pixels'" if part == "pixels" else ""
            if part.startswith("goal"):
                remedy = "; or give the goal with agent.set_goal(...)"
            raise KeyError(f"observation has no {key!r}, only {present}{remedy}")
        value = np.asarray(observation[key])
        if value.shape[-len(shape) :] != shape or value.ndim not in (len(shape), len(shape) + 1):
            trained = f" with image_size={size}" if size else ""
            raise ValueError(
                f"observation[{key!r}] has shape {value.shape}, expected {shape} or a batch of "
                f"it; the model was trained on {config.env_id}{trained}"
            )
        if len(shape) == 3 and value.dtype != np.uint8:
            raise ValueError(f"observation[{key!r}] is {value.dtype}, expected uint8 in 0…255")
        if len(shape) == 1:
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite then
                numbers = value.astype(np.float32)
            if not np.all(np.isfinite(numbers)):
                raise ValueError(f"observation[{key!r}] must be finite, got {value}")
            value = numbers
        parts[part] = value
    single = parts["proprio"].ndim == 1
    if single:
        parts = {part: value[None] for part, value in parts.items()}
    rows = {getattr(keys, p): len(v) for p, v in parts.items() if v.ndim in (2, 4)}
    if len(rows) != len(parts) or len(set(rows.values())) != 1:
        raise ValueError(f"observation has batches of different sizes: {rows}")
    for part in PARTS:
        if part.endswith("pixels") and not size:
            parts[part] = np.broadcast_to(NO_PICTURE, (len(parts["proprio"]), *NO_PICTURE.shape))
        elif part not in parts:
            parts[part] = parts[part.removeprefix("goal_")]
    return parts, single
