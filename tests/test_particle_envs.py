"""Rope and Granular: the plate, the particles, the metric and the goals."""

from __future__ import annotations

import itertools
import math

import gbp_envs  # noqa: F401
import gymnasium as gym
import numpy as np
import pytest
from gbp_envs import particles
from gbp_envs.granular import GRAIN_RADIUS, GRAINS
from gbp_envs.particles import PLATE_RADIUS, ParticleEnv, chamfer_distance, plan_push
from gbp_envs.rope import LENGTH, MAX_BEND, ROPE_RADIUS, SEGMENTS

IDS = ["gbp/Rope-v0", "gbp/Granular-v0"]
REACH = PLATE_RADIUS + GRAIN_RADIUS
each_env = pytest.mark.parametrize("env_id", IDS)


def make(env_id: str, **kwargs) -> ParticleEnv:
    env = gym.make(env_id, obs_type=kwargs.pop("obs_type", "state"), **kwargs).unwrapped
    assert isinstance(env, ParticleEnv)
    return env


def units(*places: float) -> np.ndarray:
    """Arena px as an action."""
    return np.array(places) / 256.0 - 1.0


def lattice(x: float, y: float, spacing: float = 20.0, columns: int = 10) -> np.ndarray:
    """A Granular state: 100 grains in rows of `columns` from (x, y) on."""
    i = np.arange(GRAINS)
    return np.stack([x + i % columns * spacing, y + i // columns * spacing], axis=-1).ravel()


def straight(x: float, y: float, angle: float = 0.0) -> np.ndarray:
    """A Rope state: a straight rope that begins at (x, y)."""
    way = (np.arange(SEGMENTS) + 0.5)[:, None] * LENGTH * [math.cos(angle), math.sin(angle)]
    return np.concatenate([(way + np.array([x, y])).ravel(), np.full(SEGMENTS, angle)])


def after(env: ParticleEnv, state: np.ndarray, *pushes: np.ndarray) -> np.ndarray:
    """The state that the pushes lead to."""
    env.reset(seed=0, options={"start": state, "goal": state})
    for push in pushes:
        state = env.step(push)[4]["state"]
    return state


# The metric ------------------------------------------------------------------------------------


def test_chamfer_distance_of_known_sets():
    a = np.array([0.0, 0.0, 10.0, 0.0])
    assert chamfer_distance(a, a) == 0.0
    assert chamfer_distance(a, a[[2, 3, 0, 1]]) == 0.0  # in no order
    assert chamfer_distance(a, a + np.array([3.0, 4.0, 3.0, 4.0])) == pytest.approx(10.0)
    assert chamfer_distance(a, np.array([0.0, 0.0])) == pytest.approx(5.0)
    assert chamfer_distance(np.array([0.0, 0.0]), a) == pytest.approx(5.0)


def test_chamfer_distance_of_batches(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 512, (4, 1, 2 * 7)), rng.uniform(0, 512, (5, 2 * 7))
    together = chamfer_distance(a, b)
    assert together.shape == (4, 5)
    for i in range(4):
        for j in range(5):
            apart = np.linalg.norm(a[i].reshape(7, 1, 2) - b[j].reshape(1, 7, 2), axis=-1)
            expected = apart.min(0).mean() + apart.min(1).mean()
            assert together[i, j] == pytest.approx(expected, rel=1e-5)
            assert together[i, j] == chamfer_distance(a[i, 0], b[j])
    monkeypatch.setattr(particles, "PAIRS_AT_ONCE", 3 * 49)
    np.testing.assert_array_equal(chamfer_distance(a, b), together)
    assert chamfer_distance(a[:0], b[:0]).shape == (0, 0)


@each_env
def test_success_is_a_matter_of_the_distance_alone(env_id):
    env = make(env_id)
    start = env.reset(seed=0)[0]["achieved_goal"]
    shift = np.float32([env.success_distance * 256 / 2, 0.0])
    near, far = (start + np.tile(share * shift, len(start) // 2) for share in (0.9, 1.5))
    assert env.compute_reward(near, start, {}) == 0.0
    if env_id == "gbp/Granular-v0":  # a rope that is shifted along itself stays near
        assert env.compute_reward(far, start, {}) == -1.0
    assert env.distance(near, start) < env.success_distance
    assert env.distance(near, start) == pytest.approx(env.distance(start, near))


# The plate -------------------------------------------------------------------------------------


def test_a_push_begins_where_the_plate_touches():
    push = plan_push(units(100, 256, 300, 256), np.array([[200.0, 270.0]]), GRAIN_RADIUS)
    assert (push.x, push.y) == pytest.approx((200 - REACH - particles.GAP, 256))
    assert push.x + push.substeps * particles.DT * push.vx == pytest.approx(300)
    assert push.vy == 0.0
    assert push.vx * particles.DT <= particles.STRIDE


@pytest.mark.parametrize(
    ("action", "point"),
    [
        (units(100, 256, 300, 256), (350, 256)),  # too short
        (units(100, 256, 300, 256), (200, 330)),  # beside it
        (units(100, 256, 300, 256), (50, 256)),  # behind it
        (units(200, 256, 200.5, 256), (204, 256)),  # no push
        (np.zeros(4), (256, 256)),
    ],
)
def test_a_push_that_touches_nothing(action, point):
    assert plan_push(action, np.array([point], float), GRAIN_RADIUS) is None


def test_the_plate_is_set_down_behind_what_lies_at_the_start():
    points = np.array([[200.0, 256.0], [175.0, 250.0], [100.0, 256.0]])  # 175 blocks 200's place
    push = plan_push(units(201, 256, 400, 256), points, GRAIN_RADIUS)
    assert push.x == pytest.approx(175 - REACH - particles.GAP)
    at_wall = np.array([[GRAIN_RADIUS, 256.0]])
    push = plan_push(units(10, 256, 200, 256), at_wall, GRAIN_RADIUS)
    assert push.x == pytest.approx(-PLATE_RADIUS - particles.GAP)  # beyond the wall


@pytest.mark.parametrize("angle", [0.0, 0.5, math.pi / 2, 4.0])
def test_the_plate_clears_its_way(angle):
    """Nothing is left where the plate has passed, and what lies beside it has not moved."""
    env = make("gbp/Granular-v0")
    state = lattice(166, 166)
    way = np.array([math.cos(angle), math.sin(angle)])
    center = np.array([256.0, 256.0])
    push = units(*(center - 150 * way), *(center + 30 * way))
    before = state.reshape(-1, 2)
    grains = after(env, state, push).reshape(-1, 2)
    along = (grains - center) @ way
    beside = np.abs((grains - center) @ (-way[1], way[0]))
    passed = (along < 30) & (along > -150) & (beside < particles.PLATE_HALF_WIDTH)
    assert not np.any(passed)
    assert np.sum((along > 30) & (along < 130) & (beside < 60)) > 20  # they are piled up there
    behind = (before - center) @ way < -100
    moved = np.linalg.norm(grains - before, axis=1)
    far = np.abs((before - center) @ (-way[1], way[0])) > 90
    assert np.all(moved[far & behind] == 0.0)
    assert moved.max() > 50


def test_grains_are_pushed_off_a_wall():
    env = make("gbp/Granular-v0")
    grains = np.array([(GRAIN_RADIUS, GRAIN_RADIUS + 19 * i) for i in range(26)])
    rest = lattice(300, 150)[: 2 * (GRAINS - 26)].reshape(-1, 2)
    state = np.concatenate([grains, rest]).ravel()
    moved = after(env, state, units(5, 256, 200, 256)).reshape(-1, 2)[:26]
    swept = np.abs(grains[:, 1] - 256) < particles.PLATE_HALF_WIDTH
    assert swept.sum() >= 4
    assert np.all(moved[swept, 0] > 200)
    assert np.all(moved[~swept & (np.abs(grains[:, 1] - 256) > 80), 0] < 10)


def test_a_blocked_plate_stops():
    """A rope along a wall cannot give way; it does where it is pushed along the wall."""
    env = make("gbp/Rope-v0")
    state = straight(90, 512 - ROPE_RADIUS)
    pressed = after(env, state, units(258, 300, 258, 512))
    assert np.abs(pressed - state)[: 2 * SEGMENTS].max() < 8
    shoved = after(env, straight(30, 512 - ROPE_RADIUS), units(10, 500, 100, 500))
    assert shoved[0] == pytest.approx(100 + PLATE_RADIUS + ROPE_RADIUS + LENGTH / 2, abs=2)


def test_a_rope_is_pushed_and_bends():
    env = make("gbp/Rope-v0")
    state = straight(90, 256)
    pushed = after(env, state, units(258, 100, 258, 350))
    y = pushed[1 : 2 * SEGMENTS : 2]
    assert y[11] == pytest.approx(350 + PLATE_RADIUS + ROPE_RADIUS, abs=2)
    assert y[0] < 330  # the ends trail
    assert y[-1] < 330
    assert np.ptp(pushed[: 2 * SEGMENTS : 2]) < 320
    np.testing.assert_allclose(y, y[::-1], atol=6)  # as symmetric as the push
    ends = after(env, state, units(258, 100, 258, 350), units(258, 500, 258, 200))
    assert ends[1 : 2 * SEGMENTS : 2].min() < 195  # back again


# What always holds -----------------------------------------------------------------------------


def some_push(env: ParticleEnv, rng: np.random.Generator, kind: int) -> np.ndarray:
    """Of the behaviour policy, anywhere, or through a particle and far into whatever is there."""
    if kind == 0:
        return env.behavior_action()
    if kind == 1:
        return rng.uniform(-1, 1, 4)
    place = rng.permutation(env._positions(env.get_state()))[0] / 256 - 1
    way = rng.normal(size=2)
    way /= np.linalg.norm(way)
    return np.concatenate([place - 0.2 * way, place + 1.5 * way])


@each_env
def test_random_pushes_leave_everything_whole(env_id):
    env = make(env_id)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    changed = 0
    for t in range(150):
        if t % 30 == 0:
            state = env._sample_start()
            env.reset(options={"start": state, "goal": state})
        before = env.get_state()
        state = env.step(some_push(env, rng, t % 3))[4]["state"]
        assert np.all(np.isfinite(state))
        assert env._flaw(state) is None
        positions = env._positions(state)
        assert np.all((positions > env.radius - 1) & (positions < 512 - env.radius + 1))
        assert env.observation_space["observation"].contains(state.astype(np.float32))
        changed += not np.array_equal(state, before)
        if env_id == "gbp/Rope-v0":
            bends = np.diff(np.unwrap(state[2 * SEGMENTS :]))
            assert np.abs(bends).max() < MAX_BEND + 0.1
    assert changed > 100


@each_env
def test_a_push_that_breaks_things_ends_earlier(env_id, monkeypatch):
    """Should the plate not notice that it is blocked, the push is carried out in part or not."""
    monkeypatch.setattr(particles, "MAX_STRAIN", math.inf)
    env = make(env_id)
    runs = []
    carry_out = particles._carry_out
    monkeypatch.setattr(
        particles, "_carry_out", lambda *args: runs.append(args[1]) or carry_out(*args)
    )
    if env_id == "gbp/Rope-v0":
        state = straight(80, 400)
        pushes = [units(256, 300, 256, 512), units(256, 512, 100, 512), units(400, 512, 0, 500)] * 4
    else:
        state = lattice(GRAIN_RADIUS, GRAIN_RADIUS, spacing=2 * GRAIN_RADIUS)
        pushes = [units(300, 300, 0, 0), units(80, 300, 80, 0)]
    env.reset(seed=0, options={"start": state, "goal": state})
    for push in pushes:
        state = env.step(push)[4]["state"]
        assert env._flaw(state) is None
    assert any(second < first for first, second in itertools.pairwise(runs))


@each_env
def test_what_no_push_touches_stays(env_id):
    env = make(env_id)
    state = env.reset(seed=1)[1]["state"]
    pushed = after(env, state, *(env.behavior_action() for _ in range(3)))
    for nothing in (np.zeros(4), units(511, 0, 511.5, 0)):
        np.testing.assert_array_equal(after(env, pushed, nothing), pushed)


@each_env
def test_proprio_is_zero(env_id):
    env = make(env_id, obs_type="pixels")
    obs, _ = env.reset(seed=0)
    assert env.observation_space["proprio"].shape == (1,)
    assert obs["proprio"].tolist() == obs["goal_proprio"].tolist() == [0.0]
    assert obs["proprio"].dtype == np.float32


@each_env
def test_impossible_states(env_id):
    env = make(env_id)
    if env_id == "gbp/Rope-v0":
        torn, inside = straight(90, 256), straight(90, 256)
        torn[6:8] += 20
        words = "segments 2 and 3 are 28.3 px apart"
        inside[1 : 2 * SEGMENTS : 2] = 3.0
    else:
        torn, inside = lattice(100, 100), lattice(100, 100)
        torn[:2] = torn[2:4] + 3
        words = "grains 0 and 1 overlap"
        inside[1] = 3.0
    for which in ("start", "goal"):
        with pytest.raises(ValueError, match=f"{which} is impossible: {words}"):
            env.reset(options={which: torn})
        with pytest.raises(ValueError, match=r"px deep in a wall; take a state from info"):
            env.reset(options={which: inside})


def test_a_rope_across_itself_is_impossible():
    env = make("gbp/Rope-v0")
    angles = np.cumsum(np.full(SEGMENTS, 2 * math.pi / 20))  # more than once round
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * LENGTH
    centers = np.cumsum(steps, axis=0) - steps / 2 + 250
    state = np.concatenate([centers.ravel(), angles % (2 * math.pi)])
    with pytest.raises(ValueError, match=r"the rope overlaps itself by 14\.0 px"):
        env.reset(options={"start": state})


# Goals and behaviour ---------------------------------------------------------------------------


@each_env
@pytest.mark.parametrize("goal_mode", ["segment", "random"])
def test_goals_ask_for_something(env_id, goal_mode):
    env = make(env_id, goal_mode=goal_mode)
    env.reset(seed=0)
    for _ in range(4):
        info = env.reset()[1]
        assert info["distance"] > 1.5 * env.success_distance
        assert env._flaw(info["goal_state"]) is None


def test_random_goals_of_the_rope():
    env = make("gbp/Rope-v0", goal_mode="random")
    env.reset(seed=0)
    goals = [env._sample_goal(env._sample_start()) for _ in range(60)]
    bends = np.array([np.diff(np.unwrap(goal[2 * SEGMENTS :])) for goal in goals])
    assert np.all(np.ptp(bends, axis=1) < 1e-9)  # arcs
    assert 10 < np.sum(np.abs(bends[:, 0]) < 1e-9) < 50  # some of them straight
    assert np.ptp([goal[2 * SEGMENTS] for goal in goals]) > 5  # in any direction


def test_random_goals_of_the_grains():
    env = make("gbp/Granular-v0", goal_mode="random")
    env.reset(seed=0)
    goals = np.array([env._positions(env._sample_goal(env._sample_start())) for _ in range(40)])
    sides = np.ptp(goals, axis=1)
    np.testing.assert_allclose(sides[:, 0], sides[:, 1])
    assert 170 < sides.min() < 190
    assert 235 < sides.max() < 253
    assert np.std(goals.mean(axis=1), axis=0).min() > 20


@each_env
def test_behaviour_moves_the_particles_and_keeps_them_in_reach(env_id):
    env = make(env_id)
    env.reset(seed=0)
    moved, inside = [], []
    state = env.get_state()
    for _ in range(60):
        action = env.behavior_action()
        after_push = env.step(action)[4]["state"]
        achieved, former = env._achieved(after_push), env._achieved(state)
        moved.append(float(env.distance(achieved, former)))
        state = after_push
        positions = env._positions(state)
        inside.append(np.mean(np.all((positions > 60) & (positions < 452), axis=1)))
    assert np.mean(np.array(moved) > 0.25 * env.success_distance) > 0.75
    assert np.mean(inside[-20:]) > 0.5


@each_env
def test_particles_are_drawn_where_they_are(env_id):
    env = make(env_id, obs_type="pixels")
    state = straight(100, 300, 0.3) if env_id == "gbp/Rope-v0" else lattice(200, 120)
    picture = env.draw(state, 1024).astype(int)
    assert tuple(picture[5, 5]) == (255, 255, 255)
    for x, y in env._positions(state) * 2:
        assert picture[int(y), int(x)].sum() < 500
    dark = (255.0 - picture[..., 1]) / (255.0 - picture[..., 1].min())
    expected = math.pi * (GRAIN_RADIUS * 2) ** 2 * GRAINS
    if env_id == "gbp/Rope-v0":
        expected = (SEGMENTS * LENGTH * 2 * ROPE_RADIUS + math.pi * ROPE_RADIUS**2) * 4
    assert dark.sum() == pytest.approx(expected, rel=0.1)
