"""What Stable-Baselines3 needs to learn on the state version of goal-reaching environments, and its
trained policies as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from .files import write_weights


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


ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"sac": SAC, "ppo": PPO}


def save_policy(agent: BaseAlgorithm, path: Path, about: dict[str, Any]) -> None:
    """Write the part of a trained SAC or PPO that acts; see files.py.

    about: the description, with `kind`, a key of ALGORITHMS, `env_id` and `env_kwargs`.
    """
    write_weights(path, {k: v for k, v in agent.policy.state_dict().items() if _acts(k)}, about)


def policy_from_weights(weights: dict[str, Tensor], about: dict[str, Any]) -> BasePolicy:
    """A policy that `save_policy` wrote; its environment has to be registered.

    Raises ValueError for weights that do not fit.
    """
    if about["kind"] not in ALGORITHMS:
        known = ", ".join(map(repr, ALGORITHMS))
        raise ValueError(f"the baseline is of kind {about['kind']!r}, known: 'bc', {known}")
    with gym.make(about["env_id"], **about["env_kwargs"]) as env:
        policy = ALGORITHMS[about["kind"]].policy_aliases["MultiInputPolicy"](
            env.observation_space,
            env.action_space,
            lambda _: 0.0,
            features_extractor_class=ScaledObservations,
        )
    wanted = {key for key in policy.state_dict() if _acts(key)}
    if wanted != set(weights):
        raise ValueError(
            f"the baseline has other weights than {about['kind']} for {about['env_id']}: "
            f"{sorted(wanted ^ set(weights))[:3]}…; train it again with examples/train_baseline.py"
        )
    policy.load_state_dict(weights, strict=False)
    policy.set_training_mode(False)
    return policy


def _acts(key: str) -> bool:
    """Whether a weight is learnt and needed for acting: SAC's critics are not, and the extractors'
    bounds come from the environment."""
    return not key.startswith("critic") and "features_extractor" not in key
