"""Which environment is meant."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec


def spec_of(env_id: Any) -> EnvSpec:
    """The spec of a registered id, or of an env that gymnasium.make made, or the spec itself. Those
    of envs know the wrappers that they were made with.

    Raises TypeError for anything else, such as an env that is not registered.
    """
    found = env_id.spec if isinstance(env_id, gym.Env) else env_id
    spec = gym.spec(found) if isinstance(found, str) else found
    if not isinstance(spec, EnvSpec):
        raise TypeError(f"env_id is {env_id!r}, expected an id, or an env of gymnasium.make")
    return spec
