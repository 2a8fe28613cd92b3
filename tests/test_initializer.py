"""The initialisation network: trained on the data, where the planner starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import make

from gbp_agent import (
    GradientConfig,
    GradientPlanner,
    InitializerConfig,
    MPCConfig,
    WorldModelMPCAgent,
    load_checkpoint,
)
from gbp_agent.data.latents import LatentDataset
from gbp_agent.training.initializer import train_initializer
from gbp_agent.world_model import split

STEPS = 3


def agent_with(model: Any, **settings: Any) -> WorldModelMPCAgent:
    planner = GradientPlanner(GradientConfig(init="network", noise_std=0.0, **settings))
    return WorldModelMPCAgent(model, planner, config=MPCConfig(horizon=STEPS))


@pytest.fixture
def observation() -> dict[str, np.ndarray]:
    found, _ = make("gbp/Wall-v0", image_size=16).reset(seed=0)
    return found


def test_a_search_begins_at_the_networks_plan(make_model: Any, observation: Any) -> None:
    model = make_model(initializer_width=8, initializer_steps=STEPS + 1)
    agent = agent_with(model, steps=0)
    plan = agent.plan(observation)
    start, goal = (
        model.encode(*(torch.from_numpy(observation[k])[None] for k in keys))
        for keys in (("pixels", "proprio"), ("goal_pixels", "goal_proprio"))
    )
    guess = model.initializer(
        torch.cat([start.visual[:, 0], start.proprio], -1),
        torch.cat([goal.visual[:, 0], goal.proprio], -1),
    )[:, :STEPS]
    low, high = agent._low, agent._high
    torch.testing.assert_close(plan.model_actions, guess.clamp(low, high))


def test_later_plans_begin_at_the_rest_of_the_last(make_model: Any, observation: Any) -> None:
    agent = agent_with(make_model(initializer_width=8, initializer_steps=STEPS), steps=0)
    for _ in range(agent.model.config.frameskip):
        agent.act(observation)
    first = agent._state
    agent.act(observation)
    assert agent.last_plan is not None
    assert first is not None
    torch.testing.assert_close(agent.last_plan.model_actions, first.plan)


def test_training_recovers_constant_actions(make_model: Any, tmp_path: Path) -> None:
    model = make_model(initializer_width=64, initializer_steps=STEPS)
    generator = torch.Generator().manual_seed(0)
    episodes, length, width = 64, 20, model.config.latent_dim + model.config.proprio_dim
    step = torch.randn(episodes, 1, 2, generator=generator).expand(-1, length, -1)
    position = 0.1 * step.cumsum(1)
    latents = torch.cat([position, torch.zeros(episodes, length, width - 2)], -1)
    each = torch.full((episodes,), length)
    data = LatentDataset(
        latents.flatten(0, 1), step.flatten(0, 1), torch.cumsum(each, 0) - each, each
    )
    before = {k: v.clone() for k, v in model.predictor.state_dict().items()}
    config = InitializerConfig(steps=400, windows=64, learning_rate=3e-3)
    train_initializer(model, data, np.arange(episodes), config, tmp_path, 0, False, False)
    windows, actions = data.window(data.begin, 1 + STEPS, model.config.frameskip)
    plan = model.initial_plan(split(windows[:, :1], 4), split(windows[:, -1], 4))
    assert (plan - actions).square().mean() < 0.05 * actions.var()
    for key, value in model.predictor.state_dict().items():
        assert torch.equal(value, before[key])


def test_it_is_saved_with_the_model(make_model: Any, tmp_path: Path) -> None:
    model = make_model(initializer_width=8, initializer_steps=STEPS)
    agent_with(model, steps=1).save_pretrained(tmp_path / "model")
    loaded, _ = load_checkpoint(tmp_path / "model")
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert any(key.startswith("initializer.") for key in ours)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_model_without_the_network_is_refused(make_model: Any) -> None:
    with pytest.raises(ValueError, match="no initialisation network"):
        agent_with(make_model())


def test_a_horizon_beyond_the_networks_is_refused(make_model: Any) -> None:
    with pytest.raises(ValueError, match="plans 2 model steps"):
        agent_with(make_model(initializer_width=8, initializer_steps=2))
