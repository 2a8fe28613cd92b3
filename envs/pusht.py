"""gbp/PushT-v0: push a T-shaped block to a goal pose with a round agent.

Arena      512 × 512 px, x to the right, y down. Walls keep the block inside.
Agent      kinematic circle, radius 15 px, driven towards a target point by a PD law (k_p 100 /s²,
           k_v 20 /s); the target is clipped so that the agent stays inside the arena.
Block      T shape in body coordinates: bar x -60…60, y 0…30; stem x -15…15, y 30…120; centre of
           gravity (0, 45); mass 1; moment of inertia twice the bar's. Its position is the body's
           origin (middle of the bar's outer edge). No gravity; space damping 0: it stops when the
           contact ends.
Time       simulation 100 Hz, control 10 Hz: 10 substeps per environment step.
Action     Box(-1, 1, (2,)): displacement of the target from the agent's position, in units of
           100 px.
State      [agent x, agent y, block x, block y, θ, agent vx, agent vy] in px, rad (0…2π), px/s.
Proprio    [agent x, agent y, agent vx, agent vy].
Success    the 4-vector (agent xy, block xy) is nearer than 20 px to the goal's and the wrapped
           difference of θ is below π/9. `distance` is that 4-vector's, in px.
Goals      "segment" by default, 25 steps away; the block has to move by more than 20 px or π/9.
Episode    50 steps.

The state is all there is: the block carries no velocity and no contact forces from one environment
step to the next, so that a restored state goes on exactly as the original would. Overlap is undone
by half in each substep, and with the walls wholly at the end of a step: the agent, which nothing
stops, then overlaps a block that it presses against a wall.

Sources: the task is the Push-T of Florence et al. (Implicit Behavioral Cloning, 2021) with the
block and the PD law of Chi et al. (Diffusion Policy, 2023) and the relative actions of Zhou et al.
(DINO-WM, arXiv 2411.04983).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

import cv2
import numpy as np
import pymunk

from .base import GoalMode, GoalReachingEnv, ObsType, check_choice
from .drawing import AGENT_COLOR, Color, blank, fill_circle, fill_polygon

Look = Literal["plain", "published"]

ARENA = 512.0
AGENT_RADIUS = 15.0
ACTION_SCALE = 100.0
DT = 0.01
SUBSTEPS = 10
K_P, K_V = 100.0, 20.0
SUCCESS_DISTANCE = 20.0
SUCCESS_ANGLE = math.pi / 9

BAR = np.array([(-60, 0), (60, 0), (60, 30), (-60, 30)], dtype=np.float64)
STEM = np.array([(-15, 30), (15, 30), (15, 120), (-15, 120)], dtype=np.float64)
CORNERS = np.concatenate([BAR, STEM])
CENTER_OF_GRAVITY = (0.0, 45.0)
BLOCK_REACH = 78.0  # px from the centre of gravity to the farthest corner
# Outline edges as (from, to, outward normal) in body coordinates.
EDGES = (
    ((-60, 0), (60, 0), (0, -1)),
    ((60, 0), (60, 30), (1, 0)),
    ((60, 30), (15, 30), (0, 1)),
    ((15, 30), (15, 120), (1, 0)),
    ((15, 120), (-15, 120), (0, 1)),
    ((-15, 120), (-15, 30), (-1, 0)),
    ((-15, 30), (-60, 30), (0, 1)),
    ((-60, 30), (-60, 0), (-1, 0)),
)
EDGE_LENGTHS = np.array([math.dist(a, b) for a, b, _ in EDGES])

BLOCK_COLOR = (119, 136, 153)
# Of look="published": where its data show a target, whatever the goal is.
TARGET_POSE = np.array([256.0, 256.0, math.pi / 4])
TARGET_COLOR = (144, 238, 144)


class PushTEnv(GoalReachingEnv):
    """See the module's docstring.

    Args (beyond the base class's):
        look: "plain" shows the block and the agent; "published" is after the pictures of DINO-WM's
            data, for models that were trained on them: drawn at 512 px and scaled down, with a
            light green T fixed at (256, 256, π/4) that is no goal.

    Raises:
        ValueError: another look.
    """

    state_names: ClassVar[tuple[str, ...]] = (
        "agent x",
        "agent y",
        "block x",
        "block y",
        "theta",
        "velocity x",
        "velocity y",
    )
    state_low: ClassVar[np.ndarray] = np.array([0, 0, -64, -64, 0, -1000, -1000], np.float64)
    state_high: ClassVar[np.ndarray] = np.array(
        [512, 512, 576, 576, 2 * math.pi, 1000, 1000], np.float64
    )
    state_periods: ClassVar[dict[str, float]] = {"theta": 2 * math.pi}
    proprio_index: ClassVar[list[int]] = [0, 1, 5, 6]
    achieved_index: ClassVar[list[int]] = [0, 1, 2, 3, 4]

    def __init__(
        self,
        obs_type: ObsType = "pixels",
        goal_mode: GoalMode = "segment",
        goal_steps: int = 25,
        image_size: int = 64,
        render_mode: str | None = None,
        look: Look = "plain",
        continuing_task: bool = False,
    ):
        super().__init__(obs_type, goal_mode, goal_steps, image_size, render_mode, continuing_task)
        check_choice("look", look, get_args(Look))
        self.look = look
        (walls, wall_shapes), (block, block_shapes), (agent, agent_shapes) = (
            _build_walls(),
            _build_block(),
            _build_agent(),
        )
        self._block, self._agent = block, agent
        self._bodies = [walls, block, agent]
        self._shapes = [*wall_shapes, *block_shapes, *agent_shapes]
        self._space = pymunk.Space()
        self._space.add(*self._bodies, *self._shapes)
        self._exact: np.ndarray = np.zeros(len(self.state_names))
        self._behavior = _Behavior()

    @property
    def mirror_symmetry(self) -> dict[str, Any]:
        """Both axes, but for the published look, whose fixed T has a place."""
        if self.look == "published":
            return {}
        return {
            "axes": ["x", "y", "xy"],
            "proprio": "xyxy",
            "proprio_center": [ARENA / 2, ARENA / 2, 0.0, 0.0],
            "action": "xy",
        }

    def set_state(self, state: np.ndarray) -> None:
        self._exact = np.array(state, dtype=np.float64)
        self._behavior = _Behavior()

    def get_state(self) -> np.ndarray:
        return self._exact.copy()

    def _advance(self, action: np.ndarray) -> None:
        """Load the state vector, simulate, read it back: what is not in it cannot matter."""
        x, y, block_x, block_y, theta, vx, vy = self._exact.tolist()
        path = _agent_path(x, y, vx, vy, action.tolist())
        if _may_touch(path, block_x, block_y, theta):
            space, agent, block = self._fresh_space(), self._agent, self._block
            agent.position, agent.velocity = (x, y), (vx, vy)
            block.angle = theta  # before the position, which is not the centre of gravity
            block.position = (block_x, block_y)
            block.velocity, block.angular_velocity = (0.0, 0.0), 0.0
            space.add(*self._shapes)
            for _, _, vx, vy in path:
                agent.velocity = (vx, vy)
                space.step(DT)
            theta = block.angle % (2 * math.pi)
            block_x, block_y = _kept_inside(*block.position, theta)
        x, y, vx, vy = path[-1]
        self._exact = np.array([x, y, block_x, block_y, theta, vx, vy])

    def _fresh_space(self) -> pymunk.Space:
        """A space that holds the bodies but no shapes yet, nor any contact of the past.

        Chipmunk keeps contact forces, pending corrections of overlap and an order of its shapes
        from step to step. A new space is the way to be rid of all three.
        """
        self._space.remove(*self._shapes, *self._bodies)
        space = pymunk.Space()
        space.damping = 0.0
        space.collision_bias = 0.5 ** (1 / DT)
        space.add(*self._bodies)
        space.step(DT)  # uses up the bodies' pending corrections
        self._space = space
        return space

    def behavior_action(self) -> np.ndarray:
        return self._behavior.action(self._exact, self.np_random)

    def _sample_start(self) -> np.ndarray:
        rng = self.np_random
        theta = rng.uniform(0, 2 * math.pi)
        center = rng.uniform(BLOCK_REACH + 5, ARENA - BLOCK_REACH - 5, 2)
        block = center - _rotation(theta) @ CENTER_OF_GRAVITY
        agent = rng.uniform(AGENT_RADIUS, ARENA - AGENT_RADIUS, 2)
        while _clearance(agent, block, theta) < AGENT_RADIUS:
            agent = rng.uniform(AGENT_RADIUS, ARENA - AGENT_RADIUS, 2)
        return np.array([*agent, *block, theta, 0.0, 0.0])

    def _sample_goal(self, start: np.ndarray) -> np.ndarray:
        return self._sample_start()

    def _is_worthwhile(self, start: np.ndarray, goal: np.ndarray) -> bool:
        moved = math.dist(start[2:4], goal[2:4]) > SUCCESS_DISTANCE
        return bool(moved or _angle_between(start[4], goal[4]) > SUCCESS_ANGLE)

    def distance(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        difference = np.asarray(achieved_goal)[..., :4] - np.asarray(desired_goal)[..., :4]
        return np.linalg.norm(difference.astype(np.float64), axis=-1)

    def success(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        turned = _angle_between(np.asarray(achieved_goal)[..., 4], np.asarray(desired_goal)[..., 4])
        near = self.distance(achieved_goal, desired_goal) < SUCCESS_DISTANCE
        return near & (turned < SUCCESS_ANGLE)

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        published = self.look == "published"
        picture = self._background(int(ARENA) if published else size)
        scale = len(picture) / ARENA
        _draw_block(picture, state[2:5], BLOCK_COLOR)
        fill_circle(picture, state[:2] * scale, AGENT_RADIUS * scale, AGENT_COLOR)
        return cv2.resize(picture, (size, size)) if published else picture

    def _background(self, size: int) -> np.ndarray:
        picture = blank(size)
        if self.look == "published":
            _draw_block(picture, TARGET_POSE, TARGET_COLOR)
        return picture


def _draw_block(picture: np.ndarray, pose: np.ndarray, color: Color) -> None:
    """Draw the T at (x, y, θ) in arena units."""
    scale = len(picture) / ARENA
    rotation = _rotation(float(pose[2]))
    for part in (BAR, STEM):
        fill_polygon(picture, (part @ rotation.T + pose[:2]) * scale, color)


class _Behavior:
    """Pushes that are aimed, noisy and need no learning.

    Picks a point on the block's outline and a direction into it, walks round the block to a
    stand-off point before it, pushes for a while, and picks again. Speeds vary from push to push;
    smooth noise is added throughout.
    """

    STAND_OFF = AGENT_RADIUS + 10.0

    def __init__(self) -> None:
        self._contact: np.ndarray | None = None  # body coordinates
        self._direction: np.ndarray = np.zeros(2)  # body coordinates, into the block
        self._push_steps = 0
        self._approach_steps = 0
        self._approach_speed = 0.4
        self._push_speed = 0.25
        self._noise: np.ndarray = np.zeros(2)

    def action(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        agent, block, theta = state[:2], state[2:4], state[4]
        rotation = _rotation(theta)
        if self._contact is None or self._push_steps <= 0 or self._approach_steps <= 0:
            self._choose(block, rotation, rng)
        assert self._contact is not None
        direction = rotation @ self._direction
        contact = block + rotation @ self._contact
        stand_off = contact - direction * self.STAND_OFF
        offset = agent - contact
        ahead = float(offset @ direction)
        aside = abs(float(offset[0] * direction[1] - offset[1] * direction[0]))
        if ahead < -AGENT_RADIUS + 8 and aside < 10:
            self._push_steps -= 1
            aim, speed = direction * 100.0 - (offset - ahead * direction), self._push_speed
        else:
            self._approach_steps -= 1
            aim, speed = _way_round(agent, stand_off, block, rotation) - agent, self._approach_speed
        length = float(np.linalg.norm(aim))
        # A steady action of size a moves the agent by about 40·a px in one step.
        step = aim * (min(speed, length / 40.0) / max(length, 1e-6))
        self._noise = 0.7 * self._noise + rng.normal(0.0, 0.05, 2)
        return np.clip(step + self._noise, -1.0, 1.0).astype(np.float32)

    def _choose(self, block: np.ndarray, rotation: np.ndarray, rng: np.random.Generator) -> None:
        for _ in range(20):
            edge = rng.choice(len(EDGES), p=EDGE_LENGTHS / EDGE_LENGTHS.sum())
            begin, end, normal = (np.asarray(v, dtype=np.float64) for v in EDGES[edge])
            contact = begin + rng.uniform(0.1, 0.9) * (end - begin)
            direction = _rotation(rng.normal(0.0, 0.3)) @ -normal
            stand_off = block + rotation @ (contact - direction * self.STAND_OFF)
            if np.all(stand_off > AGENT_RADIUS) and np.all(stand_off < ARENA - AGENT_RADIUS):
                break
        self._contact, self._direction = contact, direction
        self._push_steps = int(rng.integers(3, 14))
        self._approach_steps = 40
        self._approach_speed = float(rng.uniform(0.2, 0.5))
        self._push_speed = float(rng.uniform(0.1, 0.35))


def _way_round(
    agent: np.ndarray, goal: np.ndarray, block: np.ndarray, rotation: np.ndarray
) -> np.ndarray:
    """The next point to head for so as to reach `goal` without running into the block."""
    center = block + rotation @ CENTER_OF_GRAVITY
    path = goal - agent
    along = np.clip((center - agent) @ path / max(path @ path, 1e-9), 0.0, 1.0)
    if along in (0.0, 1.0) or np.linalg.norm(agent + along * path - center) > BLOCK_REACH + 5:
        return goal
    radius = BLOCK_REACH + AGENT_RADIUS + 10
    bearing = math.atan2(*(agent - center)[::-1])
    wanted = math.atan2(*(goal - center)[::-1])
    turn = (wanted - bearing + math.pi) % (2 * math.pi) - math.pi
    if abs(turn) < 0.5:
        return goal
    bearing += math.copysign(min(abs(turn), 0.7), turn)
    point = center + radius * np.array([math.cos(bearing), math.sin(bearing)])
    return np.clip(point, AGENT_RADIUS, ARENA - AGENT_RADIUS)


def _agent_path(
    x: float, y: float, vx: float, vy: float, action: list[float]
) -> list[tuple[float, float, float, float]]:
    """The agent's (x, y, vx, vy) after each substep; it is kinematic, so nothing stops it but the
    border of the arena."""
    near, far = AGENT_RADIUS, ARENA - AGENT_RADIUS
    target_x = min(max(x + ACTION_SCALE * action[0], near), far)
    target_y = min(max(y + ACTION_SCALE * action[1], near), far)
    path = []
    for _ in range(SUBSTEPS):
        vx += (K_P * (target_x - x) - K_V * vx) * DT
        vy += (K_P * (target_y - y) - K_V * vy) * DT
        vx = min(max(vx, min((near - x) / DT, 0.0)), max((far - x) / DT, 0.0))
        vy = min(max(vy, min((near - y) / DT, 0.0)), max((far - y) / DT, 0.0))
        x += vx * DT
        y += vy * DT
        path.append((x, y, vx, vy))
    return path


def _may_touch(
    path: list[tuple[float, float, float, float]], block_x: float, block_y: float, theta: float
) -> bool:
    """Whether the block could touch a wall or an agent on this path; if not, it rests."""
    center_x = block_x - math.sin(theta) * CENTER_OF_GRAVITY[1]
    center_y = block_y + math.cos(theta) * CENTER_OF_GRAVITY[1]
    if not BLOCK_REACH < min(center_x, center_y) <= max(center_x, center_y) < ARENA - BLOCK_REACH:
        return True
    reach = (BLOCK_REACH + AGENT_RADIUS) ** 2
    return any((x - center_x) ** 2 + (y - center_y) ** 2 < reach for x, y, _, _ in path)


def _kept_inside(block_x: float, block_y: float, theta: float) -> tuple[float, float]:
    """The block's position, shifted by what its corners stick out of the arena.

    The agent is not to be stopped, and can squeeze the block some way into a wall.
    """
    corners = CORNERS @ _rotation(theta).T + (block_x, block_y)
    out = np.maximum(-corners.min(axis=0), 0.0) + np.minimum(ARENA - corners.max(axis=0), 0.0)
    return block_x + float(out[0]), block_y + float(out[1])


def _build_walls() -> tuple[pymunk.Body, list[pymunk.Shape]]:
    body = pymunk.Body(body_type=pymunk.Body.STATIC)
    thick = 100.0
    low, high = -thick, ARENA + thick
    corners = ((low, low), (high, low), (high, high), (low, high))
    sides = zip(corners, (*corners[1:], corners[0]), strict=True)
    return body, [pymunk.Segment(body, begin, end, thick) for begin, end in sides]


def _build_block() -> tuple[pymunk.Body, list[pymunk.Shape]]:
    bar, stem = ([(float(x), float(y)) for x, y in part] for part in (BAR, STEM))
    body = pymunk.Body(1.0, 2 * pymunk.moment_for_poly(1.0, bar))
    body.center_of_gravity = CENTER_OF_GRAVITY
    return body, [pymunk.Poly(body, bar), pymunk.Poly(body, stem)]


def _build_agent() -> tuple[pymunk.Body, list[pymunk.Shape]]:
    body = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
    return body, [pymunk.Circle(body, AGENT_RADIUS)]


def _rotation(theta: float) -> np.ndarray:
    c, s = math.cos(theta), math.sin(theta)
    return np.array([[c, -s], [s, c]])


def _angle_between(a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return np.abs((difference + math.pi) % (2 * math.pi) - math.pi)


def _clearance(point: np.ndarray, block: np.ndarray, theta: float) -> float:
    """Distance of a point to the block, px; negative inside."""
    local = ((point - block) @ _rotation(theta)).astype(np.float32)
    target = (float(local[0]), float(local[1]))
    return -max(cv2.pointPolygonTest(part.astype(np.float32), target, True) for part in (BAR, STEM))
