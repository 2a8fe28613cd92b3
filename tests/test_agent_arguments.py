"""What an agent says to arguments that cannot be meant."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from gbp_agent import (
    CEMConfig,
    CEMPlanner,
    GoalObjective,
    GradientConfig,
    GradientPlanner,
    MPCConfig,
    MPPIConfig,
    ObservationKeys,
    RandomAgent,
    WorldModelMPCAgent,
    evaluate,
    load_checkpoint,
    record_episodes,
    save_checkpoint,
)
from gbp_agent.mpc import actions_within
from gbp_agent.normalize import Standardizer
from gbp_agent.observations import check_observation
from gbp_agent.planners import PLANNERS
from gbp_agent.planners.settings import planner_from_settings, settings_of
from gbp_agent.types import PlannerResult
from gbp_agent.vector import StateConfig
from gbp_agent.video import write_video


@pytest.fixture
def observation() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    numbers = rng.uniform(0, 60, (2, 2)).astype(np.float32)
    return {
        "pixels": picture[0], "proprio": numbers[0], "goal_pixels": picture[1],
        "goal_proprio": numbers[1],
    }  # fmt: skip


@pytest.mark.parametrize("init", ["proposals", "beam"])
def test_a_horizon_beyond_the_sequences_is_told_of(init: str, make_agent: Any) -> None:
    planner = GradientPlanner(GradientConfig(steps=1, init=init))  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="6 model steps, so that all start from zeros"):
        make_agent(planner=planner, config=MPCConfig(7))


@pytest.mark.parametrize(
    ("init", "config", "proposals"),
    [
        ("proposals", MPCConfig(6), 3),
        ("zeros", MPCConfig(7), 3),
        ("proposals", MPCConfig(7, proposals=0), 3),
        ("proposals", MPCConfig(7), 0),
    ],
)
def test_where_no_sequences_are_missed_nothing_is_told(
    init: Any, config: MPCConfig, proposals: int, make_agent: Any
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        planner = GradientPlanner(GradientConfig(steps=1, init=init))
        agent = make_agent(planner=planner, config=config, proposals=proposals)
    assert agent.config.horizon == config.horizon


def test_a_loop_that_drops_the_state_is_told_of(make_agent: Any, observation: Any) -> None:
    agent = make_agent()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = None
        for _ in range(12):  # none of these
            agent.reset()
            agent.act(observation)
            _, state = agent.predict(observation, state)
            agent.predict(observation, None, np.ones(1, bool))
        for _ in range(9):
            agent.predict(observation)
    with pytest.warns(UserWarning, match="without a state"):
        agent.predict(observation)


@pytest.mark.parametrize("state", [(), np.zeros(1), "state"])
def test_a_state_that_is_none(state: Any, make_agent: Any, observation: Any) -> None:
    with pytest.raises(TypeError, match=f"state is a {type(state).__name__}"):
        make_agent().predict(observation, state)
    with pytest.raises(TypeError, match=f"state is a {type(state).__name__}"):
        make_agent().plan(observation, state)


@pytest.mark.parametrize(
    "part", [{"objective": GoalObjective}, {"keys": {"pixels": "image"}}, {"config": {}}]
)
def test_parts_that_are_none(part: dict[str, Any], make_agent: Any) -> None:
    with pytest.raises(TypeError, match="expected"):
        make_agent(**part)


class Odd:
    """A planner that returns whatever it is told to."""

    def __init__(self, plans: torch.Tensor) -> None:
        self.plans = plans

    def __call__(self, cost: Any, initial: torch.Tensor, **given: Any) -> PlannerResult:
        rows = len(initial)
        return PlannerResult(self.plans, torch.zeros(rows), torch.zeros(1, rows), 0, 0)


@pytest.mark.parametrize(
    "plans", [torch.zeros(1, 4, 4), torch.zeros(1, 5, 3), torch.full((1, 5, 4), torch.nan)]
)
def test_a_planner_that_returns_no_plans(
    plans: torch.Tensor, make_agent: Any, observation: Any
) -> None:
    make_agent(planner=Odd(torch.zeros(1, 5, 4))).act(observation)
    with pytest.raises(ValueError, match=r"returned plans of .*, expected finite"):
        make_agent(planner=Odd(plans)).act(observation)


def test_a_registered_planner_without_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(Odd):
        def __init__(self) -> None:
            super().__init__(torch.zeros(1, 5, 4))

    monkeypatch.setitem(PLANNERS, "plain", Plain)
    planner = planner_from_settings("plain", {"gradient": {"steps": 3}})
    assert isinstance(planner, Plain)
    assert settings_of(planner) == {"plain": {}}
    with pytest.raises(ValueError, match="bad settings for planner 'plain'"):
        planner_from_settings("plain", {"plain": {"steps": 3}})


def test_actions_lie_within_bounds_that_are_finer_than_float32() -> None:
    exact = (-0.1, -np.inf, 0.3, 0.5)
    low, high = actions_within(exact, tuple(-value for value in exact))
    assert low.dtype == high.dtype == np.float32
    assert np.all(low.astype(np.float64) >= exact)
    assert np.all(high.astype(np.float64) <= [-value for value in exact])
    np.testing.assert_allclose(low, exact, rtol=2e-7)
    assert low[3] == 0.5
    for fixed in (0.1, -0.1):  # which no float32 number is
        low, high = actions_within((fixed,), (fixed,))
        assert low == high == np.float32(fixed)


def test_numpys_numbers_are_settings(make_agent: Any, tmp_path: Path) -> None:
    configs = [
        GradientConfig(steps=np.int64(3), learning_rate=np.float32(0.5)),  # type: ignore[arg-type]
        CEMConfig(samples=np.int64(50)),  # type: ignore[arg-type]
        MPPIConfig(normalize=np.bool_(True)),  # type: ignore[arg-type]
        MPCConfig(horizon=np.int64(5), dead_band=np.float32(0.25)),  # type: ignore[arg-type]
        GoalObjective(np.array([1.0, 0.0]), base=np.float32(2)),  # type: ignore[arg-type]
        GoalObjective(torch.tensor([1.0, 0.0])),  # type: ignore[arg-type]
    ]
    assert configs[4] == GoalObjective((1.0, 0.0))
    agent = make_agent(planner=GradientPlanner(configs[0]), config=configs[3], objective=configs[4])
    agent.save_pretrained(tmp_path / "agent")
    again = WorldModelMPCAgent.from_pretrained(tmp_path / "agent")
    assert again.planner.config == configs[0]  # type: ignore[attr-defined]
    assert (again.config, again.objective) == (configs[3], configs[4])
    assert isinstance(CEMPlanner(configs[1]).config.samples, int)  # type: ignore[arg-type]


def test_a_number_beyond_float32_is_not_finite(make_model: Any) -> None:
    config = StateConfig("E", 2, (-1,), (1,))
    seen = {"proprio": np.array([1.0, 1e39]), "goal_proprio": np.zeros(2)}
    with pytest.raises(ValueError, match="must be finite"):
        check_observation(seen, ObservationKeys(), config)
    with pytest.raises(ValueError, match="is a list, expected an array or a dict with 'proprio'"):
        check_observation([0.0, 0.0], ObservationKeys(), config)


def test_a_goal_without_what_is_needed(make_agent: Any, observation: Any) -> None:
    with pytest.raises(KeyError, match="the goal has none of"):
        make_agent().set_goal({"goal_pixels": observation["goal_pixels"]})


def test_models_are_float32_whatever_the_default() -> None:
    expected = load_checkpoint("wall")[0].state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        model, _ = load_checkpoint("wall")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert {k: v.dtype for k, v in model.state_dict().items()} == {
        k: v.dtype for k, v in expected.items()
    }


@pytest.mark.parametrize("planner", list(PLANNERS))
def test_planning_with_another_default_dtype(
    planner: str, make_agent: Any, observation: Any
) -> None:
    agent = make_agent(planner=planner)
    expected = agent.act(observation)
    agent.reset()
    torch.set_default_dtype(torch.float64)
    try:
        np.testing.assert_array_equal(agent.act(observation), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "change",
    [{"model": None}, {"planning": None}, {"planning": {"planners": None}}, {"planning": []}],
)
def test_a_checkpoint_without_settings(
    change: dict[str, Any], make_model: Any, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "c", make_model())
    file = tmp_path / "c" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match="expected settings by name"):
        load_checkpoint(tmp_path / "c")


def test_open_loop_with_fewer_steps_acted_out(make_agent: Any, tmp_path: Path) -> None:
    make_agent().save_pretrained(tmp_path / "agent")
    load = WorldModelMPCAgent.from_pretrained
    assert load(tmp_path / "agent", open_loop=True).config.execute == 5
    agent = load(tmp_path / "agent", open_loop=True, settings={"mpc.execute": 2})
    assert agent.config.execute == 2


def test_a_video_is_an_mp4(tmp_path: Path) -> None:
    """Which is seen before anything is played."""
    with gym.make("gbp/Wall-v0") as env:
        random = RandomAgent(env.observation_space, env.action_space)
    for make in (
        lambda name: write_video(name, [np.zeros((2, 2, 3), np.uint8)], 10),
        lambda name: record_episodes(None, "gbp/Wall-v0", [0], name),
        lambda name: evaluate(random, "gbp/Wall-v0", 1, video=name),
    ):
        with pytest.raises(ValueError, match=r"ends in \.mp4"):
            make(tmp_path / "v.gif")


def test_numbers_in_units_that_are_too_large() -> None:
    values = np.random.default_rng(0).normal(size=(100, 3)) * [1e-8, 1.0, 0.0] + [0.0, 0.0, 5.0]
    with pytest.warns(UserWarning, match="1 of 3 numbers have a standard deviation below"):
        found = Standardizer.fit(values)
    assert found.std[[0, 2]].tolist() == [1.0, 1.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Standardizer.fit(values * 1e-6)  # rounding errors
