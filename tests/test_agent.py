"""The agent: when it plans, what it remembers, what it hands out, and what it refuses."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import ENVS, FAMILIES, SIZE
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from gbp_agent import (
    CEMConfig,
    CEMPlanner,
    GoalObjective,
    GradCEMConfig,
    GradCEMPlanner,
    GradientConfig,
    GradientPlanner,
    Latent,
    MPCConfig,
    MPPIConfig,
    MPPIPlanner,
    PlannerResult,
    WorldModelMPCAgent,
    evaluate,
)
from gbp_agent.normalize import ActionNormalizer
from gbp_agent.world_model import join

QUICK = {
    "gradient": GradientPlanner(GradientConfig(steps=3, restarts=2)),
    "cem": CEMPlanner(CEMConfig(samples=6, iterations=2, elites=3)),
    "gradcem": GradCEMPlanner(GradCEMConfig(samples=4, iterations=2, elites=2)),
    "mppi": MPPIPlanner(MPPIConfig(samples=6, iterations=2)),
}
BEAM = GradientPlanner(
    GradientConfig(steps=3, restarts=2, init="beam", beam_width=2, beam_branches=2)
)
A, F = 2, 2  # action numbers of every env; frameskip of the test models


class StubPlanner:
    """Returns model actions that tell the number of the call and the model step; keeps what it is
    given."""

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []

    def __call__(self, cost: Any, initial: Tensor, **given: Any) -> PlannerResult:
        self.calls.append(SimpleNamespace(initial=initial.clone(), **given))
        steps = torch.arange(initial.shape[1], dtype=torch.float32)
        value = 0.01 * len(self.calls) + 0.1 * steps
        actions = value[None, :, None].expand_as(initial).clone()
        rows = len(initial)
        return PlannerResult(actions, torch.zeros(rows), torch.zeros(1, rows), 1, 0)


def observations(rows: int | None, env_id: str = "gbp/Wall-v0", seed: int = 0) -> dict[str, Any]:
    """Random observations, all different; a single one where rows is None."""
    random = np.random.default_rng(seed)
    lead = () if rows is None else (rows,)
    proprio = ENVS[env_id].proprio
    return {
        f"{prefix}{key}": value
        for prefix in ("", "goal_")
        for key, value in {
            "pixels": random.integers(0, 255, (*lead, SIZE, SIZE, 3), dtype=np.uint8),
            "proprio": random.uniform(5, 60, (*lead, proprio)).astype(np.float32),
        }.items()
    }


def sequence(rows: int | None, length: int) -> list[dict[str, Any]]:
    return [observations(rows, seed=step) for step in range(length)]


# Planning when due ----------------------------------------------------------------------------


@pytest.mark.parametrize("execute", [1, 2, 4])
def test_replans_only_when_due(execute: int, make_agent: Any) -> None:
    planner = StubPlanner()
    agent = make_agent(planner=planner, config=MPCConfig(horizon=4, execute=execute))
    plans = []
    for observation in sequence(None, 17):
        agent.act(observation)
        plans.append(agent.last_plan is not None)
    assert plans == [step % (execute * F) == 0 for step in range(17)]
    assert len(planner.calls) == sum(plans)


@pytest.mark.parametrize("forget", ["reset", "state"])
def test_encodes_a_goal_once_while_an_episode_lasts(
    forget: str, make_agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(planner=StubPlanner(), config=MPCConfig(horizon=2))
    encoded, encode = [], agent.model.encode

    def record(pixels: torch.Tensor, proprio: torch.Tensor) -> Latent:
        encoded.append(len(proprio))
        return encode(pixels, proprio)

    monkeypatch.setattr(agent.model, "encode", record)
    goals = {k: v for k, v in observations(3, seed=9).items() if k.startswith("goal_")}
    other = {k: v.copy() for k, v in goals.items()}
    other["goal_proprio"][1] += 1.0

    def play(state: Any, goals: dict[str, Any], seed: int) -> Any:
        """Until the next plan; the latents that it was made with are those of its goals."""
        for step in range(F):
            shown = {**observations(3, seed=F * seed + step), **goals}
            _, state = agent.predict(shown, state)
            if agent.last_plan is not None:
                plan = agent.last_plan
        wanted = encode(*(torch.from_numpy(goals[f"goal_{k}"]) for k in ("pixels", "proprio")))
        for found, part in zip(plan.goal, wanted, strict=True):
            torch.testing.assert_close(found, part)
        return state

    state = play(None, goals, 0)
    assert encoded == [3, 3]  # what is seen, and the goals
    state = play(state, goals, 1)
    assert encoded == [3, 3, 3]
    state = play(state, other, 2)
    assert encoded == [3, 3, 3, 3, 1]  # one goal is new
    play(state, goals, 3)
    assert encoded == [3, 3, 3, 3, 1, 3, 1]  # the old one was not kept
    encoded.clear()
    if forget == "reset":
        agent.reset()
        play(state, goals, 4)
    else:
        play(None, goals, 4)
    assert encoded == [3, 3]


def test_equal_goals_are_encoded_once(make_agent: Any) -> None:
    agent = make_agent(planner=StubPlanner(), config=MPCConfig(horizon=2))
    shown = observations(3)
    for key in ("goal_pixels", "goal_proprio"):
        shown[key][2] = shown[key][0]
    goal = agent.plan(shown).goal
    for part in goal:
        torch.testing.assert_close(part[2], part[0], rtol=0, atol=0)
        assert not torch.equal(part[1], part[0])


def test_hands_out_the_plan_in_order(make_agent: Any) -> None:
    agent = make_agent(planner=StubPlanner(), config=MPCConfig(horizon=4, execute=2))
    actions = [float(agent.act(observation)[0]) for observation in sequence(None, 6)]
    # Model step h of call n is 0.01 n + 0.1 h, for each of the F env steps.
    assert actions == pytest.approx([0.01, 0.01, 0.11, 0.11, 0.02, 0.02])


@pytest.mark.parametrize("execute", [1, 2, 4])
def test_warm_start_is_the_rest_of_the_last_plan(execute: int, make_agent: Any) -> None:
    planner = StubPlanner()
    agent = make_agent(planner=planner, config=MPCConfig(horizon=4, execute=execute))
    for observation in sequence(None, execute * F + 1):
        agent.act(observation)
    first, second = planner.calls
    assert not first.initial.any()
    assert not first.warm.any()
    rest = [0.01 + 0.1 * h for h in range(execute, 4)] + [0.0] * execute
    assert second.initial[0, :, 0].tolist() == pytest.approx(rest)
    assert bool(second.warm[0]) == (execute < 4)  # nothing is left of a plan that was acted out


def test_reset_forgets_plan_and_history(make_agent: Any) -> None:
    planner = StubPlanner()
    agent = make_agent(planner=planner, history=3)
    seen = sequence(None, 6)
    for observation in seen:
        agent.act(observation)
    agent.reset()
    agent.act(seen[0])
    assert not planner.calls[-1].initial.any()
    assert agent.last_plan is not None


def test_bounds_and_proposals_reach_the_planner(make_agent: Any, make_model: Any) -> None:
    model = make_model()
    model.action_normalizer = ActionNormalizer(torch.tensor([0.5, 0.0]), torch.tensor([0.5, 4.0]))
    planner = StubPlanner()
    agent = make_agent(planner=planner, model=model, config=MPCConfig(horizon=4))
    agent.act(observations(None))
    call = planner.calls[0]
    # The box is ±2; 3 standard deviations bound the first action, the box the second.
    assert call.low.tolist() == pytest.approx([-3.0, -0.5] * F)
    assert call.high.tolist() == pytest.approx([3.0, 0.5] * F)
    assert torch.equal(call.proposals, model.proposals[:, :4])


def test_proposals_shorter_than_the_horizon_are_left_out(make_agent: Any) -> None:
    planner = StubPlanner()
    agent = make_agent(planner=planner, config=MPCConfig(horizon=7), proposal_steps=6)
    agent.act(observations(None))
    assert planner.calls[0].proposals.shape == (0, 7, F * A)


@pytest.mark.parametrize(("limit", "count"), [(None, 3), (0, 0), (2, 2), (9, 3)])
def test_number_of_proposals(limit: int | None, count: int, make_agent: Any) -> None:
    planner = StubPlanner()
    config = MPCConfig(horizon=4, proposals=limit)
    make_agent(planner=planner, config=config).act(observations(None))
    assert planner.calls[0].proposals.shape == (count, 4, F * A)


def test_proposals_go_with_the_plan_of_the_episode(make_agent: Any) -> None:
    """What an agent plans from depends on its own episode alone, on how far it is."""

    def proposed(starts: list[list[bool]]) -> list[Tensor]:
        planner = StubPlanner()
        agent = make_agent(planner=planner, config=MPCConfig(horizon=4, proposals=5), proposals=40)
        state = None
        for step, start in enumerate(starts):
            seen = observations(len(start), seed=step)
            for i in range(F):
                _, state = agent.predict(seen, state, np.array(start) & (i == 0))
        rows = len(starts[0])
        return [call.proposals.expand(rows, -1, -1, -1) for call in planner.calls]

    one = [found[0] for found in proposed([[True], [False], [False]])]
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[1], one[2])
    both = proposed([[True, True], [False, False], [False, True]])
    assert torch.equal(both[1][1], one[1])
    begun, going_on = both[2:]  # which are planned for apart
    assert torch.equal(going_on[0], one[2])
    assert torch.equal(begun[0], one[0])


# History --------------------------------------------------------------------------------------


class Telltale:
    """Latents are the proprioception; keeps the starts of the roll-outs."""

    def __init__(self, model: Any):
        taken = "config", "history", "device", "model_action_dim", "action_normalizer"
        for name in (*taken, "proposals", "rollouts_at_once"):
            setattr(self, name, getattr(model, name))
        self.starts: list[tuple[Latent, Tensor]] = []

    def eval(self) -> Any:
        return self

    def requires_grad_(self, flag: bool) -> Any:
        return self

    def encode(self, pixels: Tensor, proprio: Tensor) -> Latent:
        return Latent(proprio[..., None, :1], proprio)

    def rollout(self, start: Latent, past_actions: Tensor, model_actions: Tensor) -> Latent:
        self.starts.append((start, past_actions))
        horizon = model_actions.shape[1]
        return Latent(*(part[:, -1:].repeat_interleave(horizon, 1) for part in start))


def planned_from(agent: WorldModelMPCAgent, model: Telltale) -> tuple[Latent, Tensor]:
    """The start that the last plan is rolled out from."""
    assert agent.last_plan is not None
    assert agent.last_plan.predicted.proprio.ndim == 3
    return model.starts[-1]


def test_history_is_one_model_step_apart(make_model: Any) -> None:
    model = Telltale(make_model(history=3))
    agent = WorldModelMPCAgent(model, StubPlanner(), config=MPCConfig(horizon=2))  # type: ignore[arg-type]
    frames, actions = [], []
    for step in range(9):
        observation = observations(None)
        observation["proprio"] = np.full(2, float(step), np.float32)
        actions.append(agent.act(observation))
        if agent.last_plan is not None:
            start, past = planned_from(agent, model)
            frames.append(start.proprio[0, :, 0].tolist())
            taken = past[0]
    # The first frame is repeated until there are three of them, F = 2 env steps apart.
    assert frames == [[0, 0, 0], [0, 0, 2], [0, 2, 4], [2, 4, 6], [4, 6, 8]]
    # With the actions between frames 4, 6 and 8.
    expected = np.stack(actions[4:8]).reshape(2, F * A)
    assert np.allclose(taken.numpy(), expected, atol=1e-6)


def test_longer_execution_still_takes_every_model_steps_frame(make_model: Any) -> None:
    model = Telltale(make_model(history=3))
    agent = WorldModelMPCAgent(model, StubPlanner(), config=MPCConfig(horizon=3, execute=3))  # type: ignore[arg-type]
    actions = []
    for step in range(7):
        observation = observations(None)
        observation["proprio"] = np.full(2, float(step), np.float32)
        actions.append(agent.act(observation))
    start, past = planned_from(agent, model)
    assert start.proprio[0, :, 0].tolist() == [2, 4, 6]
    assert np.allclose(past[0].numpy(), np.stack(actions[2:6]).reshape(2, F * A), atol=1e-6)


def test_history_of_the_first_model_step_has_mean_actions(make_model: Any) -> None:
    model = Telltale(make_model(history=3))
    agent = WorldModelMPCAgent(model, StubPlanner())  # type: ignore[arg-type]
    agent.act(observations(None))
    assert not planned_from(agent, model)[1].any()


# Batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*sorted(QUICK), "beam"])
@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_batch_are_independent(
    family: str, history: int, name: str, make_agent: Any
) -> None:
    seen = sequence(3, 5)
    planner = QUICK.get(name, BEAM)
    agent = make_agent(planner=planner, family=family, history=history)
    state, together = None, []
    for observation in seen:
        actions, state = agent.predict(observation, state)
        together.append(actions)
    for row in range(3):
        agent.reset()
        for observation, expected in zip(seen, together, strict=True):
            alone = agent.act({key: value[row] for key, value in observation.items()})
            assert np.allclose(alone, expected[row], atol=1e-4)


def test_episode_start_resets_one_row_alone(make_agent: Any) -> None:
    agent = make_agent(history=3)
    seen = sequence(2, 8)
    start = np.array([False, True])
    state = fresh = None
    for step, observation in enumerate(seen):
        actions, state = agent.predict(observation, state, start if step == 3 else None)
        if step < 3:
            continue
        expected, fresh = agent.predict(observation, fresh)
        assert np.allclose(actions[1], expected[1], atol=1e-5)
    unbroken = None
    for observation in seen:
        expected, unbroken = agent.predict(observation, unbroken)
    assert np.allclose(actions[0], expected[0], atol=1e-5)
    assert not np.allclose(actions[1], expected[1], atol=1e-5)


def test_rows_that_go_on_with_a_plan_are_planned_for_apart(make_agent: Any) -> None:
    """They cost what they cost alone, and so do the others."""
    planner = GradientPlanner(
        GradientConfig(steps=6, warm_steps=1, restarts=8, warm_restarts=2, warm_proposals=3)
    )
    agent = make_agent(planner=planner, config=MPCConfig(proposals=20), proposals=40)
    seen, rows, state = sequence(3, 1 + F), 3, None
    for step, observation in enumerate(seen):
        start = np.array([False, True, False]) if step == F else None
        _, state = agent.predict(observation, state, start)
        if step == 0:
            cold = agent.last_plan
    mixed = agent.last_plan
    assert (cold.evaluations, cold.gradient_steps) == (21 + 8 * 7, 8 * 6)
    warm_evaluations, warm_steps = 4 + 2 * 2, 2
    assert mixed.evaluations == round((77 + 2 * warm_evaluations) / rows)
    assert mixed.gradient_steps == round((48 + 2 * warm_steps) / rows)
    assert mixed.cost_trace.shape == (7, rows)
    # The warm rows' traces go on with their last costs.
    for row, length in enumerate((2, 7, 2)):
        assert (mixed.cost_trace[length - 1 :, row] == mixed.cost[row]).all()
    predicted = agent.cost({key: value[1:2] for key, value in seen[-1].items()})
    found = predicted(mixed.model_actions[1:2, None])[0, 0]
    torch.testing.assert_close(found, mixed.cost[1])


def test_state_can_be_cut_to_some_rows(make_agent: Any) -> None:
    agent = make_agent(history=3)
    seen = sequence(3, 6)
    whole = cut = None
    for step, observation in enumerate(seen):
        expected, whole = agent.predict(observation, whole)
        if step < 3:
            _, cut = agent.predict(observation, cut)
            continue
        if step == 3:
            cut = cut.take(np.array([2, 0]))
        actions, cut = agent.predict({k: v[[2, 0]] for k, v in observation.items()}, cut)
        assert np.allclose(actions, expected[[2, 0]], atol=1e-5)


def test_predict_leaves_the_old_state_alone(make_agent: Any) -> None:
    agent = make_agent(history=3)
    seen = sequence(2, 4)
    state = None
    for observation in seen[:2]:
        _, state = agent.predict(observation, state)
    first, _ = agent.predict(seen[2], state)
    agent.predict(seen[3], state)
    again, _ = agent.predict(seen[2], state)
    assert np.array_equal(first, again)


@pytest.mark.parametrize("env_id", sorted(ENVS))
@pytest.mark.parametrize("family", FAMILIES)
def test_stable_baselines_evaluates_it(family: str, env_id: str, make_agent: Any) -> None:
    envs = DummyVecEnv(
        [lambda: gym.make(env_id, image_size=SIZE, max_episode_steps=5) for _ in range(3)]
    )
    returns, lengths = evaluate_policy(
        make_agent(env_id, family=family),
        envs,
        n_eval_episodes=6,
        return_episode_rewards=True,
        warn=False,
    )
    assert len(returns) == 6
    assert all(length <= 5 for length in lengths)


# Actions, goals, randomness -------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(QUICK))
@pytest.mark.parametrize("env_id", sorted(ENVS))
@pytest.mark.parametrize("family", FAMILIES)
def test_actions_lie_in_the_action_space(
    family: str, env_id: str, name: str, make_agent: Any
) -> None:
    agent = make_agent(env_id, QUICK[name], family=family)
    with gym.make(env_id, image_size=SIZE) as env:
        observation, _ = env.reset(seed=0)
        for _ in range(5):
            action = agent.act(observation)
            assert env.action_space.contains(action)
            observation, *_ = env.step(action)


def test_plan_describes_itself(make_agent: Any) -> None:
    agent = make_agent(config=MPCConfig(horizon=4))
    plan = agent.plan(observations(3))
    assert plan.actions.shape == (3, 4 * F, A)
    assert np.all(np.abs(plan.actions) <= 2)
    assert plan.model_actions.shape == (3, 4, F * A)
    assert plan.predicted.visual.shape == (3, 4, 1, 4)
    assert plan.predicted.proprio.shape == (3, 4, 2)
    cost = GoalObjective()(plan.predicted, plan.goal)
    assert torch.allclose(cost, plan.cost, rtol=1e-4)
    assert plan.seconds > 0


def test_what_a_plan_expects_is_of_the_frame_that_it_was_made_at(make_agent: Any) -> None:
    """Though it is computed when it is asked for."""
    asked, waiting = make_agent(), make_agent()
    found = []
    for agent in (asked, waiting):
        agent.act(observations(1))
        plan = agent.last_plan
        if agent is asked:
            found.append(plan.predicted.visual.clone())
        for seed in range(1, F + 1):
            agent.act(observations(1, seed=seed))
        assert agent.last_plan is not plan
        found.append(plan.predicted.visual)
    for later in found[1:]:
        torch.testing.assert_close(later, found[0], rtol=0, atol=0)
    assert plan.predicted is plan.predicted


@pytest.mark.parametrize("name", sorted(QUICK))
def test_the_same_seed_gives_the_same_plan(name: str, make_agent: Any) -> None:
    one, two = (make_agent(planner=QUICK[name]) for _ in range(2))
    observation = observations(2)
    first = one.plan(observation).actions
    one.plan(observation, deterministic=False)
    assert np.array_equal(first, two.plan(observation).actions)
    assert np.array_equal(first, one.plan(observation).actions)


def test_undeterministic_plans_differ(make_agent: Any) -> None:
    agent = make_agent(planner=QUICK["cem"], proposals=0)
    a, b = (agent.plan(observations(1), deterministic=False).actions for _ in range(2))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("name", sorted(QUICK))
def test_planning_gives_parameters_no_gradients(name: str, make_agent: Any) -> None:
    agent = make_agent(planner=QUICK[name])
    before = {k: v.clone() for k, v in agent.model.state_dict().items()}
    agent.plan(observations(2))
    assert all(p.grad is None and not p.requires_grad for p in agent.model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in agent.model.state_dict().items())


@pytest.mark.parametrize("rows", [None, 3])
def test_set_goal_equals_a_goal_in_the_observation(rows: int | None, make_agent: Any) -> None:
    agent = make_agent()
    observation = observations(rows)
    goal = observations(None, seed=9)
    bare = {key: observation[key] for key in ("pixels", "proprio")}
    agent.set_goal({key: goal[key] for key in bare})
    given = agent.plan(bare).actions
    agent.set_goal({key: goal[key][None] for key in bare})
    assert np.array_equal(given, agent.plan(bare).actions)
    agent.set_goal(None)
    for key in bare:
        observation[f"goal_{key}"] = np.broadcast_to(goal[key], np.shape(bare[key]))
    assert np.array_equal(given, agent.plan(observation).actions)


def test_another_goal_is_planned_for_at_once(make_agent: Any) -> None:
    agent = make_agent(planner=StubPlanner(), config=MPCConfig(horizon=4, execute=4))
    bare = {key: observations(None)[key] for key in ("pixels", "proprio")}
    agent.set_goal(bare)
    plans = []
    for step in range(6):
        if step == 2:  # the same
            agent.set_goal({**{key: value.copy() for key, value in bare.items()}, "time": step})
        if step == 4:
            agent.set_goal({**bare, "proprio": bare["proprio"] + 1.0})
        agent.act(bare)
        plans.append(agent.last_plan is not None)
    assert plans == [True, False, False, False, True, False]
    assert not agent.planner.calls[1].warm.any()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("proprio", np.zeros(1)),
        ("proprio", np.array(1.0)),
        ("proprio", np.zeros((3, 2))),
        ("pixels", np.zeros((1, 1, 3), np.uint8)),
    ],
)
def test_a_goal_of_another_shape(key: str, value: Any, make_agent: Any) -> None:
    agent = make_agent()
    bare = {key: observations(2)[key] for key in ("pixels", "proprio")}
    agent.set_goal({**{name: part[0] for name, part in bare.items()}, key: value})
    with pytest.raises(ValueError, match=f"the goal's '{key}' has shape"):
        agent.act(bare)


def test_set_goal_without_a_picture(make_agent: Any) -> None:
    agent = make_agent()
    agent.set_goal({"proprio": np.zeros(2)})
    with pytest.raises(KeyError, match="the goal has no 'pixels', only 'proprio'"):
        agent.act(observations(None))


# Bad input ------------------------------------------------------------------------------------


def _without(key: str) -> dict[str, Any]:
    return {k: v for k, v in observations(None).items() if k != key}


def _with(key: str, value: Any) -> dict[str, Any]:
    return {**observations(None), key: value}


@pytest.mark.parametrize(
    ("observation", "error", "message"),
    [
        (_without("pixels"), KeyError, "observation has no 'pixels', only"),
        (_without("proprio"), KeyError, "observation has no 'proprio', only"),
        (_without("goal_pixels"), KeyError, r"no 'goal_pixels', .*agent.set_goal"),
        (_without("goal_proprio"), KeyError, r"no 'goal_proprio', .*agent.set_goal"),
        (_with("proprio", np.array([1.0, np.nan])), ValueError, "'proprio'.* must be finite"),
        (_with("goal_proprio", np.array([1.0, np.inf])), ValueError, "must be finite"),
        (_with("proprio", np.zeros(3)), ValueError, r"shape \(3,\), expected \(2,\)"),
        (_with("pixels", np.zeros((8, 8, 3), np.uint8)), ValueError, "image_size=16"),
        (_with("pixels", np.zeros((3, SIZE, SIZE), np.uint8)), ValueError, "expected"),
        (_with("pixels", np.zeros((SIZE, SIZE, 3))), ValueError, "float64, expected uint8"),
        (_with("proprio", np.zeros((2, 2))), ValueError, "different sizes"),
        (np.zeros(4), ValueError, r'ndarray, expected a dict .*obs_type="pixels"'),
    ],
)
def test_bad_observations(observation: Any, error: Any, message: str, make_agent: Any) -> None:
    with pytest.raises(error, match=message) as caught:
        make_agent().act(observation)
    assert "\n" not in str(caught.value)


def test_a_plan_from_a_state_sees_the_observation(make_agent: Any) -> None:
    """As predict does once a model step is over."""
    agent = make_agent(planner=QUICK["cem"], history=2)
    first, *others = sequence(2, 4)
    _, state = agent.predict(first)
    for observation in others[: F - 1]:
        _, state = agent.predict(observation, state)
    seen = others[F - 1]
    planned = agent.plan(seen, state)
    agent.predict(seen, state)
    assert np.array_equal(planned.actions, agent.last_plan.actions)
    other = {**seen, "proprio": seen["proprio"] + 1.0}
    assert not torch.equal(planned.cost, agent.plan(other, state).cost)
    with pytest.raises(ValueError, match=r"state is of 2 episode\(s\), the observation of 3"):
        agent.plan(observations(3), state)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies(again: Any, make_agent: Any) -> None:
    """In the middle of an episode; a copy has a model of its own."""
    agent = make_agent(planner=QUICK["cem"], config=MPCConfig(horizon=3))
    agent.set_goal({key: observations(None, seed=5)[key] for key in ("pixels", "proprio")})
    first, *others = sequence(None, 5)
    agent.act(first)
    other = again(agent)
    acts = [agent.act(observation) for observation in others]
    np.testing.assert_array_equal(acts, [other.act(observation) for observation in others])
    other = again(agent)
    with torch.no_grad():
        for weight in other.model.predictor.parameters():
            weight.zero_()
    plans = [a.plan(first) for a in (agent, other)]
    assert plans[0].cost != plans[1].cost


def test_copies_of_agents_of_ones_own(make_agent: Any) -> None:
    """A subclass with a constructor of its own, and noise from a device that is not there."""

    class Named(WorldModelMPCAgent):
        def __init__(self, name: str):
            super().__init__(make_agent().model, QUICK["cem"])
            self.name = name

    agent = Named("mine")
    assert copy.deepcopy(agent).name == copy.copy(agent).name == "mine"
    state = agent.__getstate__()
    other = WorldModelMPCAgent.__new__(WorldModelMPCAgent)
    other.__setstate__({**state, "noise": ("cuda", torch.zeros(16, dtype=torch.uint8))})
    np.testing.assert_array_equal(other.act(observations(2)), agent.act(observations(2)))


def test_a_planner_of_ones_own_plans_from_the_network(make_agent: Any) -> None:
    class Counting(GradientPlanner):
        calls = 0

        def __call__(self, *given: Any, **named: Any) -> PlannerResult:
            self.calls += 1
            return super().__call__(*given, **named)

    planner = Counting(GradientConfig(init="network", steps=1))
    shape = {"initializer_width": 4, "initializer_steps": 3}
    make_agent(planner=planner, config=MPCConfig(horizon=3), **shape).act(observations(None))
    assert planner.calls == 1


def test_numbers_of_numpy(make_agent: Any) -> None:
    config = MPCConfig(horizon=np.int64(4), execute=np.int32(2), proposals=np.int64(3))
    assert json.loads(json.dumps(make_agent(config=config).settings()))["mpc"]["horizon"] == 4


def test_settings_of_an_agent_stay(make_agent: Any) -> None:
    agent = make_agent()
    for name, value in (
        ("planner", "cem"), ("objective", GoalObjective()), ("config", MPCConfig()),
    ):  # fmt: skip
        with pytest.raises(AttributeError):
            setattr(agent, name, value)
    with pytest.raises(TypeError, match=r"expected an Objective.* and an MPCConfig"):
        make_agent(config={"horizon": 3})
    with pytest.raises(TypeError, match="objective is 'goal'"):
        make_agent(objective="goal")


def test_act_is_told_which_rows_begin(make_agent: Any) -> None:
    agent, other = make_agent(planner=QUICK["cem"]), make_agent(planner=QUICK["cem"])
    state, begun = None, np.array([False, True, False])
    for observation in sequence(3, 3):
        action, state = other.predict(observation, state, begun)
        np.testing.assert_array_equal(agent.act(observation, begun), action)
    with pytest.raises(ValueError, match=r"2 flag\(s\), the observation 3 episode\(s\)"):
        agent.act(observation, np.array([True, False]))


def test_inference_mode(make_agent: Any) -> None:
    agent = make_agent()
    wanted = agent.plan(observations(2)).actions
    with torch.inference_mode():
        np.testing.assert_array_equal(agent.plan(observations(2)).actions, wanted)
        agent.act(observations(2))


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (lambda predicted, goal: predicted.proprio.sum(), r"returned \(\) for"),
        (lambda predicted, goal: predicted.proprio.sum((1, 2)).numpy(), "returned ndarray for"),
    ],
)
def test_an_objective_that_gives_no_costs(costs: Any, message: str, make_agent: Any) -> None:
    agent = make_agent(objective=costs, planner=QUICK["cem"])
    with pytest.raises(ValueError, match=message):
        agent.act(observations(None))


def test_an_objective_of_nan_is_told_of(make_agent: Any) -> None:
    agent = make_agent(objective=lambda p, g: p.proprio.sum((1, 2)) * torch.nan)
    with pytest.warns(UserWarning, match="without a finite cost"):
        assert np.isfinite(agent.act(observations(None))).all()


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_dead_band_holds_back_plans_that_gain_little(
    family: str, history: int, make_agent: Any
) -> None:
    """Zero actions in those rows, which are told to cost what it costs to stay."""
    seen = observations(4)
    agent = make_agent(family=family, history=history, planner=StubPlanner(), config=MPCConfig(4))
    plan, model = agent.plan(seen), agent.model
    with torch.no_grad():
        pictures = (torch.from_numpy(seen[key]) for key in ("pixels", "proprio"))
        here = Latent(*(part[:, None] for part in model.encode(*pictures)))
    stay = agent.objective(here, plan.goal)
    cost = stay - torch.tensor([0.31, 0.29, -0.5, -torch.inf])

    def promising(_: Any, initial: Tensor, **given: Any) -> PlannerResult:
        return replace(StubPlanner()(_, initial, **given), cost=cost)

    config = MPCConfig(4, dead_band=0.3)
    with pytest.warns(UserWarning, match="without a finite cost"):
        held = WorldModelMPCAgent(model, promising, agent.objective, config).plan(seen)
    idle = np.array([False, True, True, False])
    assert np.abs(held.actions[idle]).max() < 1e-6
    np.testing.assert_array_equal(held.actions[~idle], plan.actions[~idle])
    torch.testing.assert_close(held.cost, torch.where(torch.from_numpy(idle), stay, cost))
    frames = join(held.predicted)
    torch.testing.assert_close(frames[idle], join(here)[idle].expand_as(frames[idle]))
    torch.testing.assert_close(frames[~idle], join(plan.predicted)[~idle])


def test_a_dead_band_that_is_none() -> None:
    for dead_band in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"dead_band is .*, expected a number ≥ 0"):
            MPCConfig(dead_band=dead_band)


def test_plans_of_the_network_get_all_steps(make_agent: Any) -> None:
    """Those settings that spare rows which go on with a plan are not for first guesses."""
    shape = {"initializer_width": 4, "initializer_steps": 3}
    settings = {"init": "network", "steps": 6, "restarts": 3}
    warm = {"warm_steps": 1, "warm_restarts": 1, "warm_proposals": 0}
    agent = make_agent(
        planner=GradientPlanner(GradientConfig(**settings, **warm)),
        config=MPCConfig(horizon=3),
        **shape,
    )
    steps = []
    for observation in sequence(None, F + 1):
        agent.act(observation)
        steps += [agent.last_plan.gradient_steps] if agent.last_plan else []
    assert steps == [18, 1]


def test_number_of_rows_changes(make_agent: Any) -> None:
    agent = make_agent()
    _, state = agent.predict(observations(3))
    with pytest.raises(ValueError, match=r"3 episode\(s\), the observation of 2; call agent.reset"):
        agent.predict(observations(2), state)


@pytest.mark.parametrize(
    "settings",
    [
        {"horizon": 0}, {"execute": 0}, {"horizon": 2, "execute": 3}, {"action_limit": 0},
        {"proposals": -1}, {"checkpoint_activations": 1}, {"compile": "yes"},
        {"horizon": 2.5}, {"horizon": "5"}, {"precision": "fp16"},
    ],
)  # fmt: skip
def test_bad_execution(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{list(settings)[-1]} (must|is)"):
        MPCConfig(**settings)


def test_unknown_planner(make_agent: Any) -> None:
    with pytest.raises(KeyError, match=r"unknown planner 'cme'.*'cem'.*'gradient'"):
        make_agent(planner="cme")


# A model that knows everything ----------------------------------------------------------------


class TrueWall(Telltale):
    """The free motion of Wall's dot, exactly: position + 2 · action."""

    def rollout(self, start: Latent, past_actions: Tensor, model_actions: Tensor) -> Latent:
        moves = 2.0 * model_actions.unflatten(-1, (-1, A)).sum(-2)
        last = start.proprio[:, -1:].repeat_interleave(len(moves) // len(past_actions), 0)
        position = last + moves.cumsum(1)
        return Latent(position[..., None, :1] * 0, position)

    def encode(self, pixels: Tensor, proprio: Tensor) -> Latent:
        return Latent(proprio[..., None, :1] * 0, proprio)


@pytest.mark.parametrize("planner", ["gradient", "cem"])
@pytest.mark.parametrize("execute", [1, 5])
def test_a_perfect_model_solves_wall(planner: str, execute: int, make_model: Any) -> None:
    # Goals of 12 steps of the random walk lie at most 2 · 1.4 · 12 px away, mostly in the same
    # room, where the straight way is free.
    model = TrueWall(make_model(proposals=0))
    chosen = {
        "gradient": GradientPlanner(GradientConfig(steps=40, learning_rate=0.2, init="zeros")),
        "cem": CEMPlanner(CEMConfig(samples=100, iterations=8, elites=10, init="zeros")),
    }[planner]
    agent = WorldModelMPCAgent(model, chosen, config=MPCConfig(execute=execute))  # type: ignore[arg-type]
    report = evaluate(
        agent, "gbp/Wall-v0", 12, num_envs=12, progress=False, image_size=SIZE,
        goal_mode="segment", goal_steps=12, max_episode_steps=20,
    )  # fmt: skip
    assert report.successes >= 8


def test_an_agent_is_freed_at_once(make_agent: Any) -> None:
    """It may hold much of a GPU's memory, which is not to wait for the collector of cycles."""
    gc.collect()
    gc.disable()
    try:
        agent = make_agent()
        agent.act(observations(None))
        gone = weakref.ref(agent)
        del agent
        assert gone() is None
    finally:
        gc.enable()
