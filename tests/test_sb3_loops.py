"""Stable-Baselines3's own loops run the agent unmodified."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
from conftest import SIZE
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecVideoRecorder

ROWS, BUDGET = 2, 6
make_wall = partial(gym.make, "gbp_envs:gbp/Wall-v0", image_size=SIZE, max_episode_steps=BUDGET)


def test_processes_and_one_process_agree(make_agent: Any) -> None:
    """The same seeds give the same episodes, whoever steps the environments."""
    found = []
    for kind in (DummyVecEnv, partial(SubprocVecEnv, start_method="spawn")):
        envs = kind([make_wall] * ROWS)
        envs.seed(5)
        found.append(
            evaluate_policy(
                make_agent(), envs, n_eval_episodes=4, return_episode_rewards=True, warn=False
            )
        )
        envs.close()
    assert found[0] == found[1]
    assert found[0][1] == [BUDGET] * 4 or min(found[0][1]) < BUDGET


def test_a_row_that_begins_anew_forgets(make_agent: Any) -> None:
    """`state` and `episode_start` as evaluate_policy passes them: each episode of each row is what
    an agent plays that knows no other."""
    agent = make_agent(history=2)
    envs = DummyVecEnv([make_wall] * ROWS)
    envs.seed(3)
    observation, state, starts = envs.reset(), None, np.ones(ROWS, bool)
    played: list[list[tuple[dict[str, np.ndarray], np.ndarray, bool]]] = [[] for _ in range(ROWS)]
    for _ in range(2 * BUDGET + 2):
        actions, state = agent.predict(observation, state, starts, deterministic=True)
        for row in range(ROWS):
            one = {key: value[row].copy() for key, value in observation.items()}
            played[row].append((one, actions[row], bool(starts[row])))
        observation, _, starts, _ = envs.step(actions)
    for row in played:
        for one, action, start in row:
            if start:
                agent.reset()
            np.testing.assert_allclose(agent.act(one), action, atol=1e-4)
        assert sum(start for *_, start in row) >= 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # moviepy's own
def test_video_recorder(make_agent: Any, tmp_path: Path) -> None:
    envs = DummyVecEnv([partial(make_wall, render_mode="rgb_array")] * ROWS)
    recorder = VecVideoRecorder(envs, str(tmp_path), lambda step: step == 0, video_length=5)
    recorder.seed(0)
    agent, observation, state = make_agent(), recorder.reset(), None
    for _ in range(7):
        action, state = agent.predict(observation, state)
        observation, *_ = recorder.step(action)
    recorder.close()
    (video,) = tmp_path.glob("*.mp4")
    frames = imageio.mimread(video)
    assert len(frames) >= 5
    assert np.any(frames[0] != frames[-1])
