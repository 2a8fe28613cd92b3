"""Pictures for environments that have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import AddRenderObservation

from gbp_agent import RandomAgent, ResizePixels, collect, evaluate
from gbp_agent.clips import EpisodeRecorder


def pendulum() -> gym.Env:
    env = gym.make("Pendulum-v1", render_mode="rgb_array", max_episode_steps=10)
    return ResizePixels(AddRenderObservation(env, render_only=False, obs_key="proprio"), 24)


def test_the_picture_is_small() -> None:
    env = pendulum()
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert observation["pixels"].shape == (24, 24, 3)
    assert np.ptp(observation["pixels"]) > 50  # there is something in it
    env.close()


def test_data_from_a_spec_with_wrappers(tmp_path: Path) -> None:
    with pendulum() as env:
        spec = env.spec
    assert spec is not None
    data = collect(spec, 4, 0, tmp_path, steps=5, episodes_per_part=2, workers=2, progress=False)
    assert data.metadata["env_id"] == "Pendulum-v1"
    assert data.episode(3)["pixels"].shape == (6, 24, 24, 3)
    assert data.episode(3)["proprio"].shape == (6, 3)
    assert np.ptp(data.episode(3)["pixels"].astype(float), axis=0).max() > 50  # it moves


def test_evaluation_of_a_spec_with_wrappers(tmp_path: Path) -> None:
    class Witness(RandomAgent):
        shapes: set[tuple[int, ...]] = set()  # noqa: RUF012

        def predict(self, observation: Any, *args: Any, **options: Any) -> Any:
            self.shapes.add(observation["pixels"].shape[-3:])
            return super().predict(observation, *args, **options)

    with pendulum() as env:
        agent, spec = Witness(env.observation_space, env.action_space), env.spec
    assert spec is not None
    report = evaluate(agent, spec, 3, num_envs=2, progress=False, video=tmp_path / "v.mp4")
    assert agent.shapes == {(24, 24, 3)}
    assert report.env_id == "Pendulum-v1"
    assert [episode.steps for episode in report.episodes] == [10, 10, 10]
    assert (tmp_path / "v.mp4").stat().st_size
    with pytest.raises(ValueError, match="without the wrappers"):
        evaluate(agent, spec, 1, progress=False, recorder=EpisodeRecorder(1))


def test_what_has_no_picture() -> None:
    with pytest.raises(ValueError, match="expected a dict with a picture 'pixels'"):
        ResizePixels(gym.make("Pendulum-v1"))
    env = gym.make("Pendulum-v1", render_mode="rgb_array")
    with_picture = AddRenderObservation(env, render_only=False)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        ResizePixels(with_picture, 0)
