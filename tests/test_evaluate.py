"""Evaluation: figures that are known beforehand, the statistics, files, videos."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from conftest import ENVS, FAMILIES, SIZE

from gbp_agent import (
    EVALUATION_SEEDS_BEGIN,
    EvaluationReport,
    GoalObjective,
    Latent,
    MPCConfig,
    NoOpAgent,
    RandomAgent,
    bootstrap_interval,
    distance_difference,
    evaluate,
    mcnemar,
    record_episode,
    wilson_interval,
)
from gbp_agent.video import _Imagination


class CountdownEnv(gym.Env):
    """Ends well after seed % 5 + 1 steps of action 1; with seed % 5 = 4 it never does. The
    observation is the number of steps that are left."""

    observation_space = gym.spaces.Box(-1000, 1000, (1,), np.float64)
    action_space = gym.spaces.Box(0, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        assert seed is not None
        assert seed >= EVALUATION_SEEDS_BEGIN
        self._left = seed % 5 + 1 if seed % 5 < 4 else 1000
        return self._observe(), {"distance": float(self._left)}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._left -= int(action[0])
        done = self._left == 0
        return self._observe(), -1.0, done, False, {"is_success": done, "distance": self._left}

    def _observe(self) -> np.ndarray:
        return np.array([self._left], float)


class Steps(np.ndarray):
    """Steps so far in each row: a state that can be cut to some rows, as our agent's can."""

    def take(self, rows: np.ndarray) -> Steps:  # type: ignore[override]
        return self[rows]


class Counter:
    """Plays 1 always. Its state, the steps so far in each row, is a list unless `cuttable`."""

    def __init__(self, cuttable: bool = True):
        self.cuttable = cuttable
        self.batches: list[int] = []
        self.starts = 0
        self.longest = 0.0

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        rows = len(observation)
        assert deterministic
        assert episode_start is not None
        steps = np.zeros(rows) if state is None else np.array(state)
        assert len(steps) == len(episode_start) == rows
        steps[episode_start] = 0
        steps += 1
        self.starts += int(episode_start.sum())
        self.longest = max(self.longest, steps.max())
        self.batches.append(rows)
        return np.ones((rows, 1), np.float32), steps.view(Steps) if self.cuttable else list(steps)


@pytest.fixture(autouse=True)
def _countdown() -> Any:
    gym.register(id="Countdown-v0", entry_point=CountdownEnv, max_episode_steps=10)
    yield
    del gym.registry["Countdown-v0"]


@pytest.mark.parametrize("cuttable", [True, False])
@pytest.mark.parametrize("num_envs", [1, 3, 50])
def test_known_figures(num_envs: int, cuttable: bool) -> None:
    agent = Counter(cuttable)
    report = evaluate(agent, "Countdown-v0", 10, num_envs=num_envs, progress=False)
    # Seeds 0…9 above a multiple of five: 1, 2, 3, 4 steps and a failure, twice over.
    assert [e.seed - EVALUATION_SEEDS_BEGIN for e in report.episodes] == list(range(10))
    assert [e.steps for e in report.episodes] == [1, 2, 3, 4, 10] * 2
    assert [e.success for e in report.episodes] == [True, True, True, True, False] * 2
    assert [e.final_return for e in report.episodes] == [-1, -2, -3, -4, -10] * 2
    assert [e.distance for e in report.episodes] == [0, 0, 0, 0, 990] * 2
    assert report.success_rate == 0.8
    assert report.steps_to_success == 2.5
    assert report.interval == wilson_interval(8, 10)
    assert agent.starts == 10
    assert report.planning.decisions == sum(agent.batches)
    assert np.isnan(report.planning.evaluations)
    assert report.planning.median_ms > 0
    if cuttable:
        assert report.planning.decisions == 40  # one per step: rows that are done cost nothing
        assert agent.longest == 10  # of an episode: the right rows are cut and restarted


def test_episodes_that_go_on_after_a_success(monkeypatch: Any) -> None:
    """How long a success took and how it ended are kept apart, and all steps are timed."""

    class EndlessEnv(CountdownEnv):
        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
            observation, reward, _, truncated, info = super().step(action)
            return observation, reward, False, truncated, info

    monkeypatch.setattr(gym.registry["Countdown-v0"], "entry_point", EndlessEnv)
    clock = iter(range(1000))
    watch = SimpleNamespace(perf_counter=lambda: next(clock))
    monkeypatch.setattr(sys.modules["gbp_agent.evaluate"], "time", watch)
    report = evaluate(Counter(), "Countdown-v0", 4, num_envs=2, progress=False)
    assert [e.steps for e in report.episodes] == [1, 2, 3, 4]
    assert [e.distance for e in report.episodes] == [-9, -8, -7, -6]
    assert report.success_rate == 1.0
    assert report.env_steps_per_second == 40 / 44  # a second for each step and reset


def test_seed_shifts_the_episodes_and_kwargs_reach_make() -> None:
    report = evaluate(Counter(), "Countdown-v0", 2, seed=3, progress=False, max_episode_steps=3)
    assert [e.steps for e in report.episodes] == [3, 3]
    assert [e.success for e in report.episodes] == [False, False]
    assert [e.seed - EVALUATION_SEEDS_BEGIN for e in report.episodes] == [3, 4]
    assert report.env_kwargs == {"max_episode_steps": 3}


@pytest.mark.parametrize("env_id", sorted(ENVS))
def test_our_agent_counts_its_decisions(env_id: str, make_agent: Any) -> None:
    agent = make_agent(env_id)  # replans every 2 steps
    report = evaluate(
        agent, env_id, 3, num_envs=3, progress=False, image_size=SIZE, max_episode_steps=5
    )
    wanted = sum(-(-e.steps // 2) for e in report.episodes)
    assert report.planning.decisions == wanted
    assert report.planning.gradient_steps == 2
    assert report.planning.evaluations >= 2
    assert report.planning.batch_size == 3
    assert report.settings["planners"]["gradient"]["steps"] == 2
    assert report.settings["mpc"]["horizon"] == 5


def test_open_loop_plans_once_an_episode(make_agent: Any) -> None:
    agent = make_agent(config=MPCConfig(horizon=5, execute=5))
    report = evaluate(
        agent, "gbp/Wall-v0", 4, num_envs=2, progress=False, image_size=SIZE, max_episode_steps=10
    )
    assert report.planning.decisions == 4
    assert max(e.steps for e in report.episodes) <= 10


def test_number_of_envs_does_not_change_the_outcome(make_agent: Any) -> None:
    options: Any = {"progress": False, "image_size": SIZE, "max_episode_steps": 8}
    one, four = (
        evaluate(make_agent(), "gbp/Wall-v0", 6, num_envs=n, **options).episodes for n in (1, 4)
    )
    for a, b in zip(one, four, strict=True):
        assert (a.seed, a.success, a.steps) == (b.seed, b.success, b.steps)
        assert a.distance == pytest.approx(b.distance, abs=1e-3)


@pytest.mark.parametrize(("episodes", "num_envs", "seed"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_bad_counts(episodes: int, num_envs: int, seed: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        evaluate(Counter(), "Countdown-v0", episodes, seed=seed, num_envs=num_envs)


def test_model_of_another_env(make_agent: Any) -> None:
    with pytest.raises(ValueError, match=r"trained for gbp/Wall-v0, got env gbp/PushT-v0; .*load"):
        evaluate(make_agent("gbp/Wall-v0"), "gbp/PushT-v0", 1)


def test_unknown_env() -> None:
    with pytest.raises(gym.error.NameNotFound):
        evaluate(Counter(), "NoSuchEnvironment-v0", 1, progress=False)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (50, 100, 0.40383, 0.59617),
        (185, 200, 0.87997, 0.95398),
    ],
)
def test_wilson(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_holds_the_share() -> None:
    for n in (1, 7, 40, 200):
        for successes in range(n + 1):
            low, high = wilson_interval(successes, n)
            assert 0 <= low <= successes / n <= high <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, n)


def _with_outcomes(report: EvaluationReport, outcomes: list[bool]) -> EvaluationReport:
    episodes = [replace(report.episodes[0], seed=i, success=s) for i, s in enumerate(outcomes)]
    return replace(report, episodes=episodes)


def test_mcnemar() -> None:
    report = evaluate(Counter(), "Countdown-v0", 1, progress=False)
    a = _with_outcomes(report, [True] * 8 + [False] * 1 + [True] * 3 + [False] * 2)
    b = _with_outcomes(report, [False] * 8 + [True] * 1 + [True] * 3 + [False] * 2)
    result = mcnemar(a, b)
    assert result[:2] == (8, 1)
    assert result.p_value == pytest.approx(2 * (1 + 9) / 2**9)
    assert mcnemar(b, a).p_value == result.p_value
    assert mcnemar(a, a) == (0, 0, 1.0)


def test_mcnemar_of_agents_that_see_differently() -> None:
    report = evaluate(Counter(), "Countdown-v0", 3, progress=False)
    other = replace(report, env_kwargs={"obs_type": "state", "image_size": 32})
    assert mcnemar(report, other) == (0, 0, 1.0)


def test_a_state_that_is_an_array_stays_whole() -> None:
    """An array's `take` flattens it."""

    class Tall(Counter):
        def predict(self, observation: Any, state: Any = None, *more: Any, **options: Any) -> Any:
            action, steps = super().predict(
                observation, None if state is None else state[:, 0], *more, **options
            )
            return action, np.stack([np.array(steps)] * 2, 1)

    report = evaluate(Tall(cuttable=False), "Countdown-v0", 10, num_envs=3, progress=False)
    whole = evaluate(Counter(), "Countdown-v0", 10, num_envs=3, progress=False)
    assert report.episodes == whole.episodes


def test_an_env_stands_for_its_spec() -> None:
    with gym.make("Countdown-v0") as env:
        report = evaluate(Counter(), env, 3, progress=False)
    assert report.episodes == evaluate(Counter(), "Countdown-v0", 3, progress=False).episodes
    with pytest.raises(TypeError, match=r"expected an id, or an env of gymnasium\.make"):
        evaluate(Counter(), CountdownEnv(), 3)


def test_distance_difference_pairs_the_episodes() -> None:
    report = evaluate(Counter(), "Countdown-v0", 1, progress=False)

    def at(distances: dict[int, float]) -> EvaluationReport:
        first = report.episodes[0]
        return replace(
            report, episodes=[replace(first, seed=s, distance=d) for s, d in distances.items()]
        )

    a, b = at({0: 1.0, 1: 5.0, 2: 9.0}), at({2: 8.5, 0: 0.5, 1: 4.5})
    assert distance_difference(a, b) == pytest.approx((0.5, 0.5, 0.5))
    mean, low, high = distance_difference(a, at({0: 0.0, 1: 5.0, 2: 9.5}))
    assert mean == pytest.approx(0.5 / 3)
    assert -0.5 <= low < mean < high <= 1.0
    with pytest.raises(ValueError, match="different seeds"):
        distance_difference(a, at({0: 1.0}))


def test_mcnemar_needs_the_same_episodes() -> None:
    report = evaluate(Counter(), "Countdown-v0", 2, progress=False)
    with pytest.raises(ValueError, match="different seeds"):
        mcnemar(report, replace(report, episodes=report.episodes[:1]))
    with pytest.raises(ValueError, match="different env_kwargs"):
        mcnemar(report, replace(report, env_kwargs={"max_episode_steps": 25}))


def test_files_round_trip(tmp_path: Any) -> None:
    report = evaluate(Counter(), "Countdown-v0", 6, progress=False)
    report.to_json(tmp_path / "deep" / "report.json")
    report.to_csv(tmp_path / "deep" / "report.csv")
    again = EvaluationReport.from_json(tmp_path / "deep" / "report.json")
    assert again.episodes == report.episodes
    assert again.markdown_row() == report.markdown_row()
    assert str(again) == str(report)
    content = json.loads((tmp_path / "deep" / "report.json").read_text())
    assert content["planning"]["evaluations"] is None  # NaN is no JSON
    assert content["summary"]["success_rate"] == report.success_rate
    with (tmp_path / "deep" / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["steps"]) for row in rows] == [e.steps for e in report.episodes]
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["report.csv", "report.json"]


def test_from_json_refuses_other_files(tmp_path: Any) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="no evaluation report"):
        EvaluationReport.from_json(tmp_path / "other.json")


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert bootstrap_interval([3.0, 3.0]) == (3.0, 3.0)
    for bad in ([], [[1.0]]):
        with pytest.raises(ValueError, match="expected values"):
            bootstrap_interval(bad)


def test_markdown_columns_agree() -> None:
    report = evaluate(Counter(), "Countdown-v0", 5, progress=False)
    header, rule = EvaluationReport.markdown_header().split("\n")
    assert header.count("|") == rule.count("|") == report.markdown_row().count("|")
    assert "80.0%" in report.markdown_row()


def test_random_agent_fills_the_action_space() -> None:
    with gym.make("gbp/Wall-v0") as env:
        agent = RandomAgent(env.observation_space, env.action_space, seed=3)
        observation, _ = env.reset(seed=0)
        single, state = agent.predict(observation)
        assert env.action_space.contains(single)
        assert state is None
        batch = {key: np.stack([value] * 500) for key, value in observation.items()}
        actions, _ = agent.predict(batch)
    assert actions.shape == (500, 2)
    assert np.all(np.abs(actions) <= 2)
    assert np.all(actions.max(0) > 1.9)
    assert np.all(actions.min(0) < -1.9)
    assert np.array_equal(
        RandomAgent.for_env("gbp/Wall-v0", seed=3).predict(observation)[0], single
    )


def test_no_op_agent_leaves_things_as_they_are() -> None:
    agent = NoOpAgent.for_env("gbp/Rope-v0")
    report = evaluate(agent, "gbp/Rope-v0", 2, num_envs=2, progress=False)
    for episode in report.episodes:
        with gym.make("gbp/Rope-v0") as env:
            _, info = env.reset(seed=episode.seed)
        assert not episode.success
        assert (episode.steps, episode.distance) == (20, info["distance"])
    assert report.mean_distance == np.mean([e.distance for e in report.episodes])


def test_random_agent_refuses_unbounded_actions() -> None:
    space = gym.spaces.Box(-np.inf, np.inf, (2,))
    with pytest.raises(ValueError, match="finite bounds"):
        RandomAgent(space, space)


@pytest.mark.parametrize("agent_kind", [*FAMILIES, "random"])
def test_video(agent_kind: str, tmp_path: Any, make_agent: Any) -> None:
    path = tmp_path / "sub" / "video.mp4"
    learned = agent_kind != "random"
    agent = make_agent(family=agent_kind) if learned else RandomAgent.for_env("gbp/Wall-v0")
    report = evaluate(
        agent, "gbp/Wall-v0", 2, video=path, progress=False, image_size=SIZE, max_episode_steps=4
    )
    with imageio.get_reader(path) as reader:
        frames = [frame for frame in reader]
        assert reader.get_meta_data()["fps"] == 10
    shown = sum(e.steps for e in report.episodes) + 2 * 10 if learned else 28
    assert len(frames) == shown
    width = 736 if learned else 560  # without a model nothing is imagined
    assert np.asarray(frames[0]).shape == (416, width, 3)
    assert [p.name for p in path.parent.iterdir()] == ["video.mp4"]


def test_video_of_a_model_without_decoder(tmp_path: Any, make_agent: Any) -> None:
    agent = make_agent(family="patch", decoder_width=0)
    with gym.make(
        "gbp/Wall-v0", image_size=SIZE, render_mode="rgb_array", max_episode_steps=3
    ) as env:
        record_episode(agent, env, 0, tmp_path / "v.mp4")
    with imageio.get_reader(tmp_path / "v.mp4") as reader:
        assert np.asarray(reader.get_data(0)).shape == (416, 560, 3)


def test_video_without_pictures_in_the_observation(tmp_path: Any) -> None:
    agent = RandomAgent.for_env("gbp/Wall-v0", obs_type="state")
    with gym.make(
        "gbp/Wall-v0", obs_type="state", render_mode="rgb_array", max_episode_steps=3
    ) as env:
        assert record_episode(agent, env, 0, tmp_path / "v.mp4") is False
    with imageio.get_reader(tmp_path / "v.mp4") as reader:
        assert np.asarray(reader.get_data(0)).shape == (416, 384, 3)


def test_video_needs_a_rendering_env(tmp_path: Any) -> None:
    agent = RandomAgent.for_env("gbp/Wall-v0")
    with gym.make("gbp/Wall-v0") as env, pytest.raises(ValueError, match="rgb_array"):
        record_episode(agent, env, 0, tmp_path / "v.mp4")


def test_gymnasium_records_our_agent(tmp_path: Any, make_agent: Any) -> None:
    pytest.importorskip("moviepy")
    env: Any = gym.make(
        "gbp/Wall-v0", image_size=SIZE, render_mode="rgb_array", max_episode_steps=5
    )
    env = gym.wrappers.RecordVideo(env, str(tmp_path), disable_logger=True)
    agent = make_agent()
    observation, _ = env.reset(seed=0)
    over = False
    while not over:
        observation, _, terminated, truncated, _ = env.step(agent.act(observation))
        over = terminated or truncated
    env.close()
    assert len(list(tmp_path.glob("*.mp4"))) == 1


@pytest.mark.parametrize(("step_cost", "shown"), [(None, 3), (0.1, 1)])
def test_a_video_shows_the_frame_that_a_plan_ends_with(step_cost: float | None, shown: int) -> None:
    """Frame i is shown as the number i; the goal is reached in frame 1 and left again."""
    errors = torch.tensor([2.0, 0.0, 3.0, 3.0]).reshape(1, 4, 1, 1)
    plan = SimpleNamespace(
        predicted=Latent(errors, torch.zeros(1, 4, 0)),
        goal=Latent(torch.zeros(1, 1, 1), torch.zeros(1, 0)),
        actions=np.zeros((1, 4, 2)),
    )
    agent = SimpleNamespace(
        model=SimpleNamespace(can_decode=True, device="cpu", decode=lambda _: torch.arange(4)),
        objective=GoalObjective(frames="all", step_cost=step_cost),
        last_plan=plan,
    )
    imagination = _Imagination(agent)
    imagination.update()
    assert imagination.panels()["imagined: the plan's end"] == shown
