"""State-vector models and costs of one's own, on an environment that is none of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from gbp_agent import (
    DynamicsConfig,
    FinetuneConfig,
    GoalObjective,
    GradientConfig,
    GradientPlanner,
    MPCConfig,
    ObservationKeys,
    OnlineConfig,
    PretrainConfig,
    RandomAgent,
    StateConfig,
    StateCost,
    StateWorldModel,
    TrajectoryDataset,
    WorldModelMPCAgent,
    collect,
    evaluate,
    finetune,
    load_checkpoint,
    pretrain,
    record_episode,
)
from gbp_agent.data.simulate import Simulator
from gbp_agent.normalize import Standardizer
from gbp_agent.training.initializer import InitializerConfig
from gbp_agent.types import Latent

ENV = "Pendulum-v1"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryDataset:
    folder = tmp_path_factory.mktemp("pendulum") / "data"
    return collect(ENV, 60, 0, folder, steps=40, workers=1, progress=False)


@pytest.fixture(scope="module")
def checkpoint(data: TrajectoryDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pendulum") / "run"
    config = PretrainConfig(
        data=data.folder,
        out=out,
        family="state",
        model={"frameskip": 2, "predictor_width": 64, "proposals": 32, "initializer_width": 8},
        dynamics=DynamicsConfig(steps=800, windows=64, learning_rate=3e-3),
        initializer=InitializerConfig(steps=5),
        progress=False,
    )
    pretrain(config)
    return out / "checkpoint"


def upright(states: Tensor) -> Tensor:
    """Pendulum's own cost, without its torque: states are cos θ, sin θ, dθ/dt."""
    angle = torch.atan2(states[..., 1], states[..., 0])
    return angle.square() + 0.1 * states[..., 2].square()


def agent_for(checkpoint: Path, **options: Any) -> WorldModelMPCAgent:
    model, _ = load_checkpoint(checkpoint)
    planner = GradientPlanner(GradientConfig(steps=10, restarts=2))
    return WorldModelMPCAgent(model, planner, **options)


def test_data_without_pictures(data: TrajectoryDataset) -> None:
    episode = data.episode(0)
    assert episode["pixels"].shape == (41, 0, 0, 3)
    np.testing.assert_allclose(np.linalg.norm(episode["proprio"][:, :2], axis=1), 1, rtol=1e-5)


def test_model_learns_to_predict(checkpoint: Path) -> None:
    card = (checkpoint / "README.md").read_text()
    assert "A world model of the state vector: its z-scores (3 numbers)" in card
    ratio = card.split("model\nsteps: ")[1].split(",")[0]
    assert float(ratio) < 0.05


def test_a_cost_of_ones_own_swings_the_pendulum_up(checkpoint: Path) -> None:
    model, _ = load_checkpoint(checkpoint)
    objective = StateCost(upright, model.proprio_normalizer)
    agent = agent_for(checkpoint, objective=objective, config=MPCConfig(horizon=10))
    report = evaluate(agent, ENV, 4, num_envs=4, progress=False, max_episode_steps=100)
    random = evaluate(
        RandomAgent.for_env(ENV), ENV, 4, num_envs=4, progress=False, max_episode_steps=100
    )
    ours, theirs = (
        np.mean([episode.final_return for episode in r.episodes]) for r in (report, random)
    )
    assert ours > theirs / 2  # returns are negative


def test_goals_are_set_as_vectors(checkpoint: Path) -> None:
    """Weights leave the velocity out of the goal."""
    agent = agent_for(checkpoint, objective=GoalObjective((1.0, 1.0, 0.0)))
    with gym.make(ENV) as env:
        observation, _ = env.reset(seed=0)
        with pytest.raises(KeyError, match="set_goal"):
            agent.act(observation)
        agent.set_goal(np.array([1.0, 0.0, 0.0]))
        plan = agent.plan(observation)
    expected = model_goal(agent, [1.0, 0.0, 0.0])
    torch.testing.assert_close(plan.goal.proprio, expected[None])
    assert env.action_space.contains(agent.act(observation))


def model_goal(agent: WorldModelMPCAgent, state: list[float]) -> Tensor:
    return agent.model.proprio_normalizer.normalize(torch.tensor(state))


@pytest.mark.parametrize("method", ["offline", "adversarial"])
def test_finetuning(method: Any, data: TrajectoryDataset, checkpoint: Path, tmp_path: Path) -> None:
    config = FinetuneConfig(
        model=str(checkpoint), data=data.folder, out=tmp_path / "run", method=method,
        steps=3, windows=8, progress=False,
    )  # fmt: skip
    before, _ = load_checkpoint(checkpoint)
    after = finetune(config)
    weights = before.predictor.output.weight
    assert torch.isfinite(after.predictor.output.weight).all()
    assert not torch.equal(after.predictor.output.weight, weights)


class PutBack(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """Pendulum that tells its state, angle and velocity, and takes it back; observations in a dict,
    times `scale`."""

    def __init__(self, env: gym.Env, scale: float = 1.0, forgets: bool = False):
        gym.utils.RecordConstructorArgs.__init__(self, scale=scale, forgets=forgets)
        gym.Wrapper.__init__(self, env)
        self.scale, self.forgets = scale, forgets
        spaces = {"sensed": gym.spaces.Box(-np.inf, np.inf, (3,))}
        self.observation_space = gym.spaces.Dict(spaces)

    def told(self, observation: np.ndarray, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        simulator: Any = self.unwrapped
        return {"sensed": self.scale * observation}, info | {"state": simulator.state.copy()}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        observation, info = self.env.reset(seed=seed)
        if options and not self.forgets:
            simulator: Any = self.unwrapped
            simulator.state = np.array(options["start"])
            observation = simulator._get_obs()
        return self.told(observation, info)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        observation, info = self.told(observation, info)
        return observation, reward, terminated, truncated, info


def test_online_finetuning_of_an_env_with_wrappers(checkpoint: Path, tmp_path: Path) -> None:
    """The simulator is the env that the data are of, with its wrappers and its names."""
    with PutBack(gym.make(ENV), scale=2.0) as env:
        spec = env.spec
    assert spec is not None
    keys = ObservationKeys(pixels=None, proprio="sensed", goal_pixels=None)
    known = {"steps": 30, "workers": 1, "progress": False, "keys": keys}
    data = collect(spec, 40, 0, tmp_path / "data", **known)
    assert np.abs(data.array("proprio")[:, 0]).max() > 1.9
    config = FinetuneConfig(
        model=str(checkpoint), data=data.folder, out=tmp_path / "run", method="online", workers=1,
        steps=3, windows=8, progress=False,
        online=OnlineConfig(every=2, trajectories=4, model_steps=3),
    )  # fmt: skip
    with pytest.raises(ValueError, match="with the wrappers PutBack, not in Pendulum-v1 with none"):
        finetune(config)
    before, _ = load_checkpoint(checkpoint)
    after = finetune(config, spec)
    assert not torch.equal(after.predictor.output.weight, before.predictor.output.weight)
    with Simulator.of(data, spec=spec) as simulator:
        episode = data.episode(3)
        frames = simulator.play(episode["state"][:1], episode["action"][None, :5])
        np.testing.assert_allclose(frames.proprio[0], episode["proprio"][1:6], atol=1e-5)
        assert frames.pixels.shape == (1, 5, 0, 0, 3)


def test_simulators_of_other_specs_are_others() -> None:
    seen = []
    keys = ObservationKeys(pixels=None, proprio="sensed", goal_pixels=None)
    for gravity, scale in ((1.0, 1.0), (50.0, 1.0), (1.0, 3.0)):
        with PutBack(gym.make(ENV, g=gravity), scale=scale) as env:
            assert env.spec is not None
            with Simulator(env.spec, keys=keys) as simulator:
                frames = simulator.play(np.array([[1.0, 0.0]]), np.zeros((1, 3, 1)))
        seen.append(frames.proprio[0, -1])
    assert np.abs(seen[1] - seen[0]).max() > 0.1
    np.testing.assert_allclose(seen[2], 3 * seen[0], rtol=1e-5)


def test_what_was_recorded_elsewhere_does_not_say_with_which_wrappers(tmp_path: Path) -> None:
    with PutBack(gym.make(ENV)) as env:
        spec = env.spec
    assert spec is not None
    keys = ObservationKeys(pixels=None, proprio="sensed", goal_pixels=None)
    known = {"steps": 8, "workers": 1, "progress": False, "keys": keys}
    data = collect(spec, 4, 0, tmp_path / "data", **known)
    for name in ("wrappers", "keys"):
        del data.metadata[name]
    with Simulator.of(data, spec=spec, keys=keys) as simulator:
        simulator.check(data, np.arange(4))


def test_a_simulator_that_does_not_go_on_as_recorded(
    data: TrajectoryDataset, tmp_path: Path
) -> None:
    with Simulator.of(data) as simulator, pytest.raises(ValueError, match="holds no states"):
        simulator.check(data, np.arange(3))
    with PutBack(gym.make(ENV), forgets=True) as env:
        spec = env.spec
    assert spec is not None
    keys = ObservationKeys(pixels=None, proprio="sensed", goal_pixels=None)
    known = {"steps": 8, "workers": 1, "progress": False, "keys": keys}
    forgotten = collect(spec, 4, 0, tmp_path / "data", **known)
    with (
        Simulator.of(forgotten, spec=spec) as simulator,
        pytest.raises(ValueError, match="the proprioception is off by"),
    ):
        simulator.check(forgotten, np.arange(4))


def test_entries_of_a_dict(tmp_path: Path) -> None:
    keys = ObservationKeys(pixels=None, proprio="observation", goal_pixels=None)
    found = collect(
        "gbp/PointMaze-v0", 2, 0, tmp_path / "data", steps=5, workers=1, progress=False,
        keys=keys, obs_type="state",
    )  # fmt: skip
    np.testing.assert_allclose(found.episode(0)["proprio"], found.episode(0)["state"], rtol=1e-6)
    with pytest.raises(KeyError, match="observation has no 'pixels', only 'observation'"):
        collect(
            "gbp/PointMaze-v0", 2, 0, tmp_path / "more", steps=5, workers=1, progress=False,
            obs_type="state",
        )  # fmt: skip


def test_video_of_a_state_model(checkpoint: Path, tmp_path: Path) -> None:
    agent = agent_for(checkpoint)
    agent.set_goal(np.array([1.0, 0.0, 0.0]))
    with gym.make(ENV, render_mode="rgb_array", max_episode_steps=3) as env:
        record_episode(agent, env, 0, tmp_path / "v.mp4")
    assert (tmp_path / "v.mp4").stat().st_size > 0


def test_cost_of_the_wrong_shape() -> None:
    cost = StateCost(lambda states: states.sum(), Standardizer.identity(3))
    predicted = Latent(torch.zeros(2, 4, 1, 0), torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match=r"returned shape \(\) .* expected \(2, 4\)"):
        cost(predicted, predicted)


def test_what_does_not_fit(data: TrajectoryDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="image_size must be 0"):
        StateWorldModel(StateConfig(ENV, 3, (-2.0,), (2.0,), image_size=64))
    with pytest.raises(ValueError, match="holds no pictures; give family='state'"):
        pretrain(PretrainConfig(data=data.folder, out=tmp_path / "run", progress=False))
