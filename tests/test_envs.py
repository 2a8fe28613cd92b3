"""The environments keep Gymnasium's, SB3's and our own interface, and their physics."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable

import gbp_envs  # noqa: F401
import gymnasium as gym
import numpy as np
import pytest
from gbp_envs.base import GoalReachingEnv
from gbp_envs.point_maze import waypoint
from gbp_envs.pusht import BAR, STEM

PARTICLE_IDS = ["gbp/Rope-v0", "gbp/Granular-v0"]
ENV_IDS = ["gbp/PushT-v0", "gbp/PointMaze-v0", "gbp/Wall-v0", *PARTICLE_IDS]
OBS_TYPES = ["pixels", "state"]
GOAL_MODES = ["segment", "random"]

each_env = pytest.mark.parametrize("env_id", ENV_IDS)
each_obs_type = pytest.mark.parametrize("obs_type", OBS_TYPES)
each_goal_mode = pytest.mark.parametrize("goal_mode", GOAL_MODES)


def make(env_id: str, **kwargs) -> GoalReachingEnv:
    """The environment itself, without Gymnasium's wrappers."""
    env = gym.make(env_id, **kwargs).unwrapped
    assert isinstance(env, GoalReachingEnv)
    return env


def span(env_id: str, steps: int) -> int:
    """So many steps, or a fifth where one step is a whole push."""
    return steps // 5 if env_id in PARTICLE_IDS else steps


def behave(env: GoalReachingEnv, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The behaviour policy's actions (steps, A) and the states (steps + 1, d) on their way."""
    actions, states = [], [env.get_state()]
    for _ in range(steps):
        actions.append(env.behavior_action())
        states.append(env.step(actions[-1])[4]["state"])
    return np.array(actions), np.array(states)


def replay(env: GoalReachingEnv, start: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The states (steps, d) that the actions lead to from `start`."""
    env.reset(options={"start": start, "goal": start})  # no goal has to be found
    return np.array([env.step(action)[4]["state"] for action in actions])


def messages_of(env_id: str, check: Callable[[], None]) -> list[str]:
    """The warnings of a checker, less the one that is to be expected.

    The action box of the Wall task is (-2, 2) by its definition; both checkers advise (-1, 1).
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check()
    messages = [str(w.message) for w in caught]
    if env_id != "gbp/Wall-v0":
        return messages
    expected = re.compile("recommend .*symmetric and normalized .*range=\\[-1, 1\\]")
    assert sum(bool(expected.search(m)) for m in messages) == 1
    return [m for m in messages if not expected.search(m)]


@pytest.fixture(autouse=True)
def _no_window(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


# The interface ---------------------------------------------------------------------------------


@each_env
@each_obs_type
def test_gymnasium_checker_is_silent(env_id, obs_type):
    from gymnasium.utils.env_checker import check_env

    env = make(env_id, obs_type=obs_type, render_mode="rgb_array")
    assert messages_of(env_id, lambda: check_env(env)) == []


@each_env
@each_obs_type
def test_sb3_checker_is_silent(env_id, obs_type):
    from stable_baselines3.common.env_checker import check_env

    env = make(env_id, obs_type=obs_type, render_mode="rgb_array")
    assert messages_of(env_id, lambda: check_env(env)) == []


@each_env
@each_obs_type
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_envs(env_id, obs_type, mode):
    envs = gym.make_vec(env_id, num_envs=2, vectorization_mode=mode, obs_type=obs_type)
    obs, _ = envs.reset(seed=7)
    alone, _ = make(env_id, obs_type=obs_type).reset(seed=8)
    for key, value in alone.items():
        np.testing.assert_array_equal(obs[key][1], value)
    envs.action_space.seed(0)
    for _ in range(3):
        obs, reward, _, _, info = envs.step(envs.action_space.sample())
    assert envs.observation_space.contains(obs)
    assert reward.shape == (2,)
    assert info["state"].shape[0] == 2
    envs.close()


@pytest.mark.parametrize(
    ("env_id", "mode", "steps"),
    [
        ("gbp/PushT-v0", "segment", 50),
        ("gbp/PointMaze-v0", "random", 100),
        ("gbp/Wall-v0", "random", 100),
        ("gbp/Rope-v0", "segment", 20),
        ("gbp/Granular-v0", "segment", 20),
    ],
)
def test_registration(env_id, mode, steps):
    env = gym.make(env_id, obs_type="state")
    assert env.spec.max_episode_steps == steps
    assert env.unwrapped.goal_mode == mode
    _, info = env.reset(seed=0)
    start = info["state"]
    for count in range(1, steps + 1):  # standing still cannot solve a task
        _, _, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape))
        assert not terminated
        assert truncated == (count == steps)
    np.testing.assert_array_equal(info["state"], start)


@each_env
def test_render_modes(env_id):
    env = make(env_id, render_mode="human")
    env.reset(seed=0)
    assert env._window is not None
    begin = time.perf_counter()
    for _ in range(3):
        env.step(env.behavior_action())
    assert time.perf_counter() - begin > 2.0 / env.metadata["render_fps"]  # at a watchable speed
    assert env.render() is None
    env.close()
    env = make(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.shape == (384, 384, 3)
    assert frame.dtype == np.uint8


@each_env
@each_goal_mode
def test_goal_picture_is_the_observation_in_the_goal_state(env_id, goal_mode):
    env = make(env_id, goal_mode=goal_mode, image_size=48)
    obs, info = env.reset(seed=3)
    assert not np.array_equal(obs["pixels"], obs["goal_pixels"])
    there, _ = env.reset(options={"start": info["goal_state"], "goal": info["state"]})
    np.testing.assert_array_equal(there["pixels"], obs["goal_pixels"])
    np.testing.assert_array_equal(there["proprio"], obs["goal_proprio"])
    np.testing.assert_array_equal(there["goal_pixels"], obs["pixels"])


@each_env
def test_goal_shows_in_render_only(env_id):
    env = make(env_id, render_mode="rgb_array")
    obs, info = env.reset(seed=4)
    frame = env.render()
    other_obs, other = env.reset(options={"start": info["state"]})
    assert not np.array_equal(other["goal_state"], info["goal_state"])
    np.testing.assert_array_equal(other_obs["pixels"], obs["pixels"])
    assert not np.array_equal(env.render(), frame)


@each_env
def test_pictures_show_less_than_a_pixel(env_id):
    env = make(env_id)
    env.reset(seed=0)
    shift = np.zeros(len(env.state_names))
    shift[0] = 0.1 * {"PointMaze": 3.5, "Wall": 65}.get(env_id[4:-3], 512) / 64
    state = env.get_state()
    assert np.any(env.draw(state, 64) != env.draw(state + shift, 64))


@each_env
def test_reward_is_vectorised_and_the_steps_own(env_id):
    env = make(env_id, obs_type="state")
    env.reset(seed=5)
    steps = span(env_id, 40)
    actions, states = behave(env, steps)
    achieved = states[:, env.achieved_index].astype(np.float32)
    pairs = env.compute_reward(achieved[:, None], achieved[None], np.array([{}] * len(achieved)))
    assert pairs.shape == (steps + 1, steps + 1)
    assert set(np.unique(pairs)) == {-1.0, 0.0}
    assert np.all(np.diag(pairs) == 0)
    assert pairs[3, -2] == env.compute_reward(achieved[3], achieved[-2], {})
    env.reset(options={"start": states[0], "goal": states[-1]})
    for t, action in enumerate(actions):
        obs, reward, terminated, _, info = env.step(action)
        assert reward == pairs[t + 1, -1]
        assert reward == env.compute_reward(obs["achieved_goal"], obs["desired_goal"], info)
        assert terminated == info["is_success"] == (reward == 0.0)
        assert info["distance"] == pytest.approx(
            float(env.distance(obs["achieved_goal"], obs["desired_goal"])), abs=1e-3
        )
    assert terminated


@each_env
def test_a_continuing_task_goes_on_after_success(env_id):
    """To the end of its steps, and is rewarded for staying there; nothing else is different."""
    env = make(env_id, obs_type="state", continuing_task=True)
    start = env.reset(seed=5)[1]["state"]
    env.reset(options={"start": start, "goal": start})
    for _ in range(3):
        _, reward, terminated, truncated, info = env.step(np.zeros(env.action_space.shape))
        assert (reward, terminated, truncated, info["is_success"]) == (0.0, False, False, True)
    env = gym.make(env_id, obs_type="state", continuing_task=True)
    _, goal = env.reset(seed=5)
    plain = make(env_id, obs_type="state").reset(seed=5)[1]
    np.testing.assert_equal(goal["goal_state"], plain["goal_state"])
    steps = [env.step(env.action_space.sample())[2:4] for _ in range(env.spec.max_episode_steps)]
    assert steps == [(False, False)] * (len(steps) - 1) + [(False, True)]


@each_env
def test_hindsight_replay_buffer(env_id):
    from stable_baselines3 import HerReplayBuffer
    from stable_baselines3.common.vec_env import DummyVecEnv

    envs = DummyVecEnv([lambda: gym.make(env_id, obs_type="state")])
    env = envs.envs[0].unwrapped
    buffer = HerReplayBuffer(
        500, envs.observation_space, envs.action_space, envs, n_sampled_goal=4, device="cpu"
    )
    envs.seed(0)
    obs = envs.reset()
    for _ in range(span(env_id, 250)):
        action = env.behavior_action()[None]
        following, reward, done, infos = envs.step(action)
        last = infos[0].get("terminal_observation")
        reached = following if last is None else {k: v[None] for k, v in last.items()}
        buffer.add(obs, reached, action, reward, done, infos)
        obs = following
    sample = buffer.sample(128)
    rewards = sample.rewards.numpy()[:, 0]
    goals = sample.next_observations["desired_goal"].numpy()
    expected = env.compute_reward(sample.next_observations["achieved_goal"].numpy(), goals, None)
    np.testing.assert_array_equal(rewards, expected)
    assert set(rewards) == {-1.0, 0.0}


@each_env
def test_segment_goals_are_reachable_and_ask_for_something(env_id):
    steps = span(env_id, 25)
    env = make(env_id, obs_type="state", goal_mode="segment", goal_steps=steps)
    taken: list[np.ndarray] = []
    advance = env._advance
    env._advance = lambda action: (taken.append(action), advance(action))
    env.reset(seed=6)
    for _ in range(3 if env_id in PARTICLE_IDS else 8):
        taken.clear()
        _, info = env.reset()
        assert not info["is_success"]
        start, goal, way = info["state"], info["goal_state"], taken[-steps:]
        if env_id == "gbp/PushT-v0":
            turned = abs((start[4] - goal[4] + math.pi) % (2 * math.pi) - math.pi)
            assert math.dist(start[2:4], goal[2:4]) > 20 or turned > math.pi / 9
        np.testing.assert_array_equal(replay(env, start, np.array(way))[-1], goal)


@each_env
@each_goal_mode
def test_seeds_reproduce(env_id, goal_mode):
    def trace(seed):
        env = make(env_id, obs_type="state", goal_mode=goal_mode)
        _, info = env.reset(seed=seed)
        return np.concatenate([info["goal_state"], *behave(env, span(env_id, 20))], axis=None)

    np.testing.assert_array_equal(trace(1), trace(1))
    assert not np.array_equal(trace(1), trace(2))


@each_env
def test_restoring_a_state_is_exact(env_id):
    env, other = make(env_id, obs_type="state"), make(env_id, obs_type="state")
    other.reset(seed=99)
    behave(other, span(env_id, 30))
    steps = span(env_id, 60)
    for seed in range(2 if env_id in PARTICLE_IDS else 4):
        env.reset(seed=seed)
        actions, states = behave(env, steps)
        for begin in (0, steps // 5 + 1, steps // 2 + 1, steps - 1):
            for instance in (env, other):
                again = replay(instance, states[begin], actions[begin:])
                np.testing.assert_array_equal(again, states[begin + 1 :])


@each_env
@each_obs_type
def test_what_comes_out_lies_in_the_spaces(env_id, obs_type):
    env = make(env_id, obs_type=obs_type)
    obs, info = env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = []
    for t in range(span(env_id, 60)):
        assert env.observation_space.contains(obs)
        assert {"is_success", "state", "goal_state", "distance"} <= set(info)
        assert info["state"].dtype == np.float64
        actions.append(env.behavior_action())
        assert env.action_space.contains(actions[-1])
        obs, _, _, _, info = env.step(actions[-1] if t % 3 else rng.normal(0, 3, len(actions[-1])))
    assert np.all(np.std(actions, axis=0) > 0.05 * env.action_bound)


@each_env
def test_actions_are_clipped_to_the_box(env_id):
    env = make(env_id, obs_type="state")
    _, info = env.reset(seed=2)
    big = np.array([[7.0, -50.0, -7.0, 50.0]])[:, : env.action_space.shape[0]]
    inside = np.clip(big, -env.action_bound, env.action_bound)
    np.testing.assert_array_equal(
        replay(env, info["state"], big), replay(env, info["state"], inside)
    )


@each_env
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda action: np.append(math.nan, action[1:]), "finite"),
        (lambda action: np.append(math.inf, action[1:]), "finite"),
        (lambda action: action[1:], r"shape \((1|3),\), expected \((2|4),\)"),
        (lambda action: action[None], "vector env"),
    ],
)
def test_bad_actions(env_id, spoil, words):
    env = make(env_id, obs_type="state")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=words):
        env.step(spoil(np.zeros(env.action_space.shape)))


@each_env
@pytest.mark.parametrize("which", ["start", "goal"])
def test_bad_reset_options(env_id, which):
    env = make(env_id, obs_type="state")
    state = env.reset(seed=0)[1]["state"]
    with pytest.raises(ValueError, match=r"unknown option.*'begin'; known: 'start', 'goal'"):
        env.reset(options={"begin": state})
    with pytest.raises(ValueError, match=f"{which} has shape .* expected .*x"):
        env.reset(options={which: state[:-1]})
    with pytest.raises(ValueError, match=f"{which} must be finite"):
        env.reset(options={which: np.where(np.arange(len(state)) == 1, np.nan, state)})
    with pytest.raises(ValueError, match=rf"{which} lies outside the bounds: \S*.* is 10\d*\.\d+"):
        env.reset(options={which: state + 1e6})


@each_env
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("obs_type", "image"),
        ("goal_mode", "far"),
        ("render_mode", "ascii"),
        ("goal_steps", 0),
        ("image_size", 8),
    ],
)
def test_bad_arguments(env_id, argument, value):
    entry = gym.spec(env_id).entry_point
    env_class = gym.envs.registration.load_env_creator(entry)
    with pytest.raises(ValueError, match=f"{argument}.*{value}"):
        env_class(**{argument: value})


def test_import_is_light():
    code = (
        "import sys, gbp_envs, gymnasium as gym\n"
        f"for name in {ENV_IDS}: gym.make(name, obs_type='state').reset(seed=0)\n"
        "heavy = {'torch', 'gbp_agent', 'pygame', 'OpenGL', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# The physics -----------------------------------------------------------------------------------


def wall_env(**kwargs):
    return make("gbp/Wall-v0", obs_type="state", **kwargs)


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        ([10, 10], [1, 0.5], [12, 11]),  # free
        ([28, 20], [2, 0], [29, 20]),  # the wall's left face
        ([28, 20], [2, 1], [29, 20.5]),  # stops where it touches, and does not slide
        ([38, 50], [-2, 0], [35, 50]),  # its right face
        ([28, 32], [2, 0], [32, 32]),  # into the door
        ([32, 33], [0.5, 2], [32.75, 36]),  # the door's frame
        ([29, 20], [0, 1], [29, 22]),  # along a face
        ([29, 20], [0.5, 0], [29, 20]),  # against it
        ([29, 20], [-1, 0], [27, 20]),  # away from it
        ([6, 40], [-2, 0], [5, 40]),  # the border
        ([58, 58], [2, 1], [60, 59]),
    ],
)
def test_wall_steps(start, action, end):
    env = wall_env()
    assert replay(env, np.array(start, float), np.array([action]))[0].tolist() == end


def test_wall_is_never_tunnelled():
    env = wall_env(randomize=True)
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    between = np.linspace(0, 1, 41)[:, None]
    crossings = 0
    for t in range(6000):
        if t % 100 == 0:
            info = env.reset()[1]
            wall_x, door_y = info["wall_x"], info["door_y"]
        before = info["state"]
        towards = np.array([wall_x, door_y]) - before  # bold steps, half of them at the door
        action = rng.uniform(-2, 2, 2) + (towards / np.linalg.norm(towards) if t % 2 else 0)
        info = env.step(action)[4]
        after = info["state"]
        way = before + between * (after - before)
        in_wall = np.abs(way[:, 0] - wall_x) < 3 - 1e-9
        in_door = np.abs(way[:, 1] - door_y) <= 4 + 1e-9
        assert np.all(in_door | ~in_wall), (before, action, after)
        assert np.all((after >= 5) & (after <= 60))
        crossings += (before[0] > wall_x) != (after[0] > wall_x)
    assert crossings > 50  # else this has tested little


def test_wall_behaviour_goes_through_the_door():
    env = wall_env(randomize=True)
    episodes = 0
    env.reset(seed=0)
    for _ in range(30):
        wall_x = env.reset()[1]["wall_x"]
        right = behave(env, 100)[1][:, 0] > wall_x
        episodes += bool(np.any(right != right[0]))
    assert episodes > 20


def test_wall_behaviour_leans_against_the_wall():
    """Planners ask what lies behind a wall that is walked into: data have to say it often."""
    env = wall_env(randomize=True)
    env.reset(seed=0)
    leaning = []
    for _ in range(30):
        wall_x = env.reset()[1]["wall_x"]
        x = behave(env, 100)[1][:, 0]
        leaning.append(np.isclose(np.abs(x - wall_x), 3, atol=1e-6).mean())
    assert np.mean(leaning) > 0.05


def test_pusht_in_its_published_look():
    env = make("gbp/PushT-v0", look="published", image_size=224, render_mode="rgb_array")
    state = [100.0, 100.0, 400.0, 400.0, 0.0, 0.0, 0.0]
    obs, _ = env.reset(options={"start": state, "goal": [100.0, 100.0, 400.0, 100.0, 1.0, 0, 0]})
    at = lambda x, y: tuple(obs["pixels"][round(y * 224 / 512), round(x * 224 / 512)])  # noqa: E731
    assert at(100, 100) == (65, 105, 225)  # royal blue
    assert at(400, 415) == (119, 136, 153)  # light slate grey
    assert at(256, 270) == (144, 238, 144)  # light green
    assert at(20, 500) == (255, 255, 255)
    assert env.render().shape == (384, 384, 3)
    with pytest.raises(ValueError, match="unknown look 'dark'"):
        gym.make("gbp/PushT-v0", look="dark")


def test_wall_layout():
    env = make("gbp/Wall-v0", randomize=True)
    obs, first = env.reset(seed=0)
    _, second = env.reset()
    assert (first["wall_x"], first["door_y"]) != (second["wall_x"], second["door_y"])
    options = {"start": first["state"], "goal": first["goal_state"]}
    options |= {key: first[key] for key in ("wall_x", "door_y")}
    again, _ = make("gbp/Wall-v0").reset(options=options)
    np.testing.assert_array_equal(again["pixels"], obs["pixels"])
    with pytest.raises(ValueError, match="door_y must be within"):
        env.reset(options={"door_y": 2.0})
    with pytest.raises(ValueError, match="wall_x must be within"):
        gym.make("gbp/Wall-v0", wall_x=60)
    with pytest.raises(ValueError, match=r"start .* lies in the wall"):
        wall_env().reset(options={"start": [32.0, 20.0]})


def test_wall_random_goals_lie_in_the_other_room():
    env = wall_env()
    env.reset(seed=0)
    starts, goals = zip(
        *((i["state"][0], i["goal_state"][0]) for _, i in (env.reset() for _ in range(50))),
        strict=True,
    )
    assert np.all((np.array(starts) > 32) != (np.array(goals) > 32))
    assert 5 < np.sum(np.array(starts) > 32) < 45


def test_wall_dot_is_where_the_state_says():
    env = make("gbp/Wall-v0")
    env.reset(seed=0)
    state = np.array([17.3, 48.9])
    darkness = 255.0 - env.draw(state, 64)[..., 0]
    darkness[:, (np.arange(64) < 6) | (np.arange(64) > 27)] = 0  # the left room alone
    darkness[(np.arange(64) < 6) | (np.arange(64) > 57)] = 0
    share, axis = darkness / darkness.sum(), (np.arange(64) + 0.5) * 65 / 64
    assert (share.sum(0) @ axis, share.sum(1) @ axis) == pytest.approx(state, abs=0.05)
    spread = share.sum(0) @ (axis - state[0]) ** 2
    assert math.sqrt(spread) == pytest.approx(1.7, abs=0.1)


def test_pusht_block_stays_in_the_arena():
    env = make("gbp/PushT-v0", obs_type="state", goal_mode="random")
    env.reset(seed=0)
    moved = 0.0
    for _ in range(30):
        env.reset()
        states = behave(env, 100)[1]
        moved += np.abs(np.diff(states[:, 2:4], axis=0)).sum()
        for _, _, x, y, theta, _, _ in states:
            c, s = math.cos(theta), math.sin(theta)
            corners = np.concatenate([BAR, STEM]) @ np.array([[c, s], [-s, c]]) + (x, y)
            assert np.all((corners > -1e-9) & (corners < 512 + 1e-9))
        assert np.all((states[:, :2] >= 15 - 1e-9) & (states[:, :2] <= 497 + 1e-9))
    assert moved > 1000


def test_pusht_angles_are_compared_round_the_circle():
    env = make("gbp/PushT-v0", obs_type="state")
    pose = np.array([100.0, 100.0, 300.0, 300.0])
    angles = np.array([[0.1, 2 * math.pi - 0.1], [0.1, 0.5], [0.0, 2 * math.pi], [3.1, -3.1]])
    a, b = (np.column_stack([np.tile(pose, (4, 1)), angles[:, i]]) for i in (0, 1))
    assert env.success(a, b).tolist() == [True, False, True, True]
    b[:, :2] += 12
    assert env.success(a, b).tolist() == [True, False, True, True]
    b[:, 2:4] += 12  # nearer than 20 px each, but not both together
    assert not np.any(env.success(a, b))


def test_point_maze_full_throttle():
    env = make("gbp/PointMaze-v0", obs_type="state")
    mass = 1000 * 4 / 3 * math.pi * 0.1**3
    x, y, v = 1.0, 1.0, 0.0
    for _ in range(10):
        v = (mass * min(v, 5.0) + 0.01 * 100) / (mass + 0.01 * 1)  # damping is implicit
        x += 0.01 * v
    states = replay(env, np.array([1.0, y, 0.0, 0.0]), np.array([[1.0, 0.0]] * 2))
    np.testing.assert_allclose(states[-1], [x, y, v, 0.0], atol=1e-9)


def test_point_maze_ball_stays_in_the_corridor():
    env = make("gbp/PointMaze-v0", obs_type="state", goal_mode="random")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    cells, held = set(), np.zeros(2)
    for t in range(5000):
        held = rng.choice([-1.0, 0.0, 1.0], 2) if t % 8 == 0 else held
        x, y, vx, vy = env.step(held if t % 1000 < 500 else env.behavior_action())[4]["state"]
        cells.add((round(x), round(y)))
        assert 0.55 < x < 3.45
        assert 0.55 < y < 3.45
        assert math.hypot(vx, vy) < 7.5
    assert cells == {(1, 1), (2, 1), (3, 1), (3, 2), (3, 3), (2, 3), (1, 3)}
    for bad in ([2.0, 2.0, 0, 0], [1.0, 1.6, 0, 0]):
        with pytest.raises(ValueError, match="lies in a wall"):
            env.reset(options={"start": bad})


def test_point_maze_goals_are_reached_well_within_the_budget():
    env = make("gbp/PointMaze-v0", obs_type="state")
    env.reset(seed=0)
    for _ in range(40):
        _, info = env.reset()
        steps = 0
        while not info["is_success"]:
            here, velocity = info["state"][:2], info["state"][2:]
            way = np.array(waypoint(tuple(here), tuple(info["goal_state"][:2]))) - here
            info = env.step(3.0 * way / (np.linalg.norm(way) + 1e-6) - velocity)[4]
            steps += 1
            assert steps <= 60
