"""Gap and landscape: what they measure, on cases with a known answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from torch import Tensor

from gbp_agent import MPCConfig, TrajectoryDataset, collect
from gbp_agent.data.simulate import Simulator
from gbp_agent.gap import error_along, train_test_gap
from gbp_agent.landscape import cost_slice, gradient_variation
from gbp_agent.world_model import join, split

HORIZON = 3


@pytest.mark.parametrize("randomize", [False, True])
def test_gap_of_a_planner_that_does_what_the_expert_did(
    make_agent: Any, tmp_path: Path, randomize: bool
) -> None:
    """Also where each episode has walls of its own."""
    agent = make_agent(config=MPCConfig(horizon=HORIZON))
    options = {"image_size": 16, "randomize": randomize}
    data = collect("gbp/Wall-v0", 5, 0, tmp_path, steps=20, workers=1, progress=False, **options)
    windows = data.windows(HORIZON + 1, agent.model.config.frameskip)
    count, seed = 5, 3
    chosen = np.random.default_rng(seed).integers(len(windows), size=count)
    known = windows.batch(chosen)["action"].flatten(1, 2).numpy()
    plan = agent.plan
    agent.plan = lambda observation: replace(plan(observation), actions=known)
    with Simulator.of(data) as simulator:
        found = train_test_gap(agent, windows, simulator, count, seed)
    for key, errors in found["expert"].items():
        torch.testing.assert_close(found["planner"][key], errors)


@pytest.mark.parametrize("family", FAMILIES)
def test_gap_of_a_planner_of_its_own(
    family: str, make_agent: Any, wall_data: TrajectoryDataset
) -> None:
    agent = make_agent(family=family, config=MPCConfig(horizon=HORIZON))
    windows = wall_data.windows(HORIZON + 1, agent.model.config.frameskip)
    with Simulator("gbp/Wall-v0", image_size=16) as simulator:
        found = train_test_gap(agent, windows, simulator, 4)
    assert found["planner"]["rollout"].shape == (4, HORIZON)
    torch.testing.assert_close(  # both begin with the same frame
        found["planner"]["one_step"][:, 0], found["planner"]["rollout"][:, 0]
    )
    assert not torch.allclose(found["planner"]["rollout"], found["expert"]["rollout"])


@pytest.mark.parametrize("history", [1, 2])
def test_error_along_what_the_model_itself_predicts(history: int, make_model: Any) -> None:
    model = make_model(history=history)
    generator = torch.Generator().manual_seed(0)
    begin = torch.randn(4, history, 6, generator=generator)
    actions = torch.randn(4, history - 1 + HORIZON, 4, generator=generator)
    predicted = join(
        model.rollout(split(begin, 4), actions[:, : history - 1], actions[:, history - 1 :])
    )
    latents = torch.cat([begin, predicted], 1)
    for errors in error_along(model, latents, actions).values():
        assert errors.shape == (4, HORIZON)
        torch.testing.assert_close(errors, torch.zeros_like(errors))
    shifted = latents.clone()
    shifted[:, -1] += 2.0
    errors = error_along(model, shifted, actions)
    for error in errors.values():
        torch.testing.assert_close(error[:, -1], torch.full((4,), 4.0))
        torch.testing.assert_close(error[:, :-1], torch.zeros(4, HORIZON - 1))


def quadratic(plans: Tensor) -> Tensor:
    return plans.square().sum((-2, -1))


def test_slice_of_a_quadratic() -> None:
    axis, costs = cost_slice(quadratic, torch.zeros(1, 3, 4), span=2.0, points=5)
    torch.testing.assert_close(axis, torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
    expected = 12 * (axis[:, None] ** 2 + axis[None] ** 2)  # H·M numbers
    torch.testing.assert_close(costs, expected)


def test_gradient_variation_of_a_plane_is_zero() -> None:
    slope = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    found = gradient_variation(lambda a: (slope * a).sum((-2, -1)), torch.zeros(2, 3, 4))
    torch.testing.assert_close(found, torch.zeros(2))


def test_gradient_variation_of_a_quadratic_and_of_ripples() -> None:
    center = torch.zeros(2, 3, 4)
    center[1] += 5.0  # far from the minimum the same step turns the gradient less
    near, far = gradient_variation(quadratic, center, spread=0.5, step=0.05).tolist()
    assert near == pytest.approx(0.05 / 0.5, rel=0.3)
    assert far == pytest.approx(0.05 / 5.0, rel=0.3)
    rippled = gradient_variation(
        lambda a: quadratic(a) + torch.sin(40 * a).sum((-2, -1)), center, spread=0.5, step=0.05
    )
    assert rippled[0] > 0.5
