"""Which environment is meant."""

from __future__ import annotations

import json
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


def own_kwargs(spec: EnvSpec) -> dict[str, Any]:
    """What an env was made with besides what is registered for its id, as far as it is JSON values
    and changes more than how it is shown."""
    registered = gym.registry.get(spec.id)
    known = {} if registered is None else registered.kwargs
    own = {k: v for k, v in spec.kwargs.items() if k != "render_mode" and _json(v) is not None}
    return {k: v for k, v in own.items() if k not in known or _json(known[k]) != _json(v)}


def _json(value: Any) -> str | None:
    try:
        return json.dumps(value)
    except TypeError:
        return None
