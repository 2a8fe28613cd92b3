"""Gymnasium's vector environments: a batch of observations is planned for at once, and each row
begins anew where its environment does."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import SIZE
from gymnasium.vector import AutoresetMode

ROWS, STEPS = 3, 14


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_rows_begin_anew(mode: AutoresetMode, vectorization: str, make_agent: Any) -> None:
    """Each episode gets the actions that an agent gives which knows no other."""
    agent = make_agent(history=2)
    envs = gym.make_vec(
        "gbp/Wall-v0",
        ROWS,
        vectorization_mode=vectorization,
        vector_kwargs={"autoreset_mode": mode},
        image_size=SIZE,
        max_episode_steps=5,
    )
    try:
        observation, _ = envs.reset(seed=0)
        state, ended = None, np.zeros(ROWS, bool)
        starts = np.ones(ROWS, bool)
        seen: list[list[list[tuple[dict[str, np.ndarray], np.ndarray]]]] = [[] for _ in range(ROWS)]
        for _ in range(STEPS):
            actions, state = agent.predict(observation, state, starts)
            for row, episodes in enumerate(seen):
                if starts[row]:
                    episodes.append([])
                if not (mode == AutoresetMode.NEXT_STEP and ended[row]):  # else it is not used
                    now = {key: value[row].copy() for key, value in observation.items()}
                    episodes[-1].append((now, actions[row]))
            before = ended
            observation, _, terminated, truncated, _ = envs.step(actions)
            ended = terminated | truncated
            starts = ended if mode == AutoresetMode.SAME_STEP else before
    finally:
        envs.close()
    assert sum(len(episodes) for episodes in seen) > 2 * ROWS - 1
    for episode in (episode for episodes in seen for episode in episodes):
        agent.reset()
        for now, action in episode:
            np.testing.assert_allclose(agent.act(now), action, atol=1e-4)


def test_act_takes_a_batch(make_agent: Any) -> None:
    envs = gym.make_vec("gbp/Wall-v0", ROWS, vectorization_mode="sync", image_size=SIZE)
    observation, _ = envs.reset(seed=0)
    actions = make_agent().act(observation)
    assert envs.action_space.contains(actions)
    envs.step(actions)
    envs.close()
