"""What Rope and Granular share: particles on a table that a plate pushes; see `ParticleEnv`.

Arena      512 × 512 px, x to the right, y down. Walls keep the particles inside; the plate passes
           over them.
Plate      96 px wide and 16 px thick with round ends, square to its way. It is set down at the
           push's start or, where particles lie there, as far behind it on the push's line as it
           takes to touch none (beyond the wall if need be: so what lies along a wall can be pushed
           off it). It moves to the push's end at constant speed and is lifted. It stops early where
           the particles cannot give way: when they are pressed or pulled apart by more than 4 px.
Motion     quasi-static, as on a rough table: in each substep a particle moves as contacts and
           joints make it, and keeps no velocity. So all rests when the plate is lifted; a few more
           substeps undo what overlaps.
Action     Box(-1, 1, (4,)): start x, start y, end x, end y of one push in units of half the arena,
           (0, 0) being its centre. A push shorter than 1 px does nothing. One environment step is
           one push.
Proprio    zeros(1): there is nothing to sense of a plate that is lifted.
Distance   the Chamfer distance in units of half the arena: the mean distance from each particle to
           the nearest of the goal's, and the same the other way round, added. Between start and
           goal it is at least 1.5 times what counts as success, or the goal is drawn again.
Behaviour  a push through a random particle, in a random direction that leads away from the walls
           the more, the nearer they are; noisy.

The state holds poses alone. Each push starts from a simulator that is built from the state vector,
so that nothing else is carried over. A push that touches nothing changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pymunk
from gymnasium import spaces

from .base import GoalMode, GoalReachingEnv, ObsType

ARENA = 512.0
HALF = ARENA / 2
FRICTION = 0.3
PLATE_HALF_WIDTH, PLATE_RADIUS = 40.0, 8.0  # of the middle line, and round it
GAP = 0.5  # px between the plate where it is set down and the nearest particle
MIN_PUSH = 1.0  # px
DT = 0.01
ITERATIONS = 30
STRIDE = 2.0  # px that the plate moves in a substep, at most
SETTLE_SUBSTEPS = 30
LOOK_EVERY = 2  # substeps between two looks at the strain
# The plate stops when the strain is too great at so many looks running: a touch makes an overlap of
# a stride, and a particle that comes loose may fall back on the plate, but that is undone at once.
MAX_STRAIN, PATIENCE = 4.0, 2  # px, looks
WORTHWHILE = 1.5  # a goal is at least so many times as far from the start as success allows
TOLERANCE = 1.0  # px by which a state may overlap the walls or be torn
# Collision categories; particles may use the bits above theirs, too.
WALL, PLATE, PARTICLE = 1, 2, 4
# A Chamfer distance is computed for at most so many pairs of particles at a time.
PAIRS_AT_ONCE = 2_000_000


class ParticleEnv(GoalReachingEnv):
    """Base class; see the module's docstring. The state begins with x and y of each particle, by
    turns.

    Subclasses set the class attributes below and implement the methods that raise
    NotImplementedError, besides the base class's.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 4}  # noqa: RUF012

    action_size: ClassVar[int] = 4
    particles: ClassVar[int]
    radius: ClassVar[float]
    success_distance: ClassVar[float]

    def __init__(
        self,
        obs_type: ObsType = "pixels",
        goal_mode: GoalMode = "segment",
        goal_steps: int = 5,
        image_size: int = 64,
        render_mode: str | None = None,
        continuing_task: bool = False,
    ):
        super().__init__(obs_type, goal_mode, goal_steps, image_size, render_mode, continuing_task)
        self._exact: np.ndarray = np.zeros(len(self.state_names))

    @property
    def mirror_symmetry(self) -> dict[str, Any]:
        axes = ["x", "y", "xy"]
        return {"axes": axes, "proprio": "-", "proprio_center": [0.0], "action": "xyxy"}

    # What a subclass provides ----------------------------------------------------------------

    def _populate(self, space: pymunk.Space, state: np.ndarray) -> list[pymunk.Body]:
        """Add the particles, at rest in `state`, to the arena."""
        raise NotImplementedError

    def _read(self, bodies: list[pymunk.Body]) -> np.ndarray:
        """The state vector of the bodies that `_populate` made."""
        raise NotImplementedError

    def _flaw(self, state: np.ndarray) -> str | None:
        """What makes a state impossible, in words; None where nothing does."""
        points = self._outline(state)
        out = self.radius - min(points.min(), ARENA - points.max())
        return f"a particle is {out:.1f} px deep in a wall" if out > TOLERANCE else None

    def _outline(self, state: np.ndarray) -> np.ndarray:
        """Points (m, 2), px; discs of `radius` round them are what the plate could touch."""
        return self._positions(state)

    def _strain(self, bodies: list[pymunk.Body]) -> float:
        """How far what belongs together is apart, px."""
        return 0.0

    # The simulator ---------------------------------------------------------------------------

    def set_state(self, state: np.ndarray) -> None:
        self._exact = np.array(state, dtype=np.float64)

    def get_state(self) -> np.ndarray:
        return self._exact.copy()

    def _positions(self, state: np.ndarray) -> np.ndarray:
        """The particles' centres, (particles, 2), px."""
        return state[: 2 * self.particles].reshape(-1, 2)

    def _advance(self, action: np.ndarray) -> None:
        """Load the state vector, simulate, read it back: what is not in it cannot matter."""
        push = plan_push(action, self._outline(self._exact), self.radius)
        substeps = push.substeps if push else 0
        while push and substeps > 0:
            space = _arena()
            bodies = self._populate(space, self._exact)
            done = _carry_out(push, substeps, space, partial(self._strain, bodies))
            state = self._read(bodies)
            if self._flaw(state) is None:
                self._exact = state
                return
            substeps = done // 2  # it was pushed to pieces, as happens about once in 1000 pushes

    def behavior_action(self) -> np.ndarray:
        return aimed_push(self._positions(self._exact), self.np_random)

    def distance(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        return chamfer_distance(achieved_goal, desired_goal) / HALF

    def success(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        return self.distance(achieved_goal, desired_goal) < self.success_distance

    def _is_worthwhile(self, start: np.ndarray, goal: np.ndarray) -> bool:
        distance = self.distance(self._achieved(start), self._achieved(goal))
        return bool(distance > WORTHWHILE * self.success_distance)

    def _checked_state(self, name: str, state: Any) -> np.ndarray | None:
        array = super()._checked_state(name, state)
        flaw = None if array is None else self._flaw(array)
        if flaw is not None:
            raise ValueError(f'{name} is impossible: {flaw}; take a state from info["state"]')
        return array

    def _make_proprio_space(self) -> spaces.Box:
        return spaces.Box(-1.0, 1.0, (1,), np.float32)

    def _proprio(self, state: np.ndarray) -> np.ndarray:
        return np.zeros(1, np.float32)


class Push(NamedTuple):
    """A push from where the plate first touches something: px and px/s."""

    x: float
    y: float
    vx: float
    vy: float
    substeps: int


def plan_push(action: np.ndarray, points: np.ndarray, radius: float) -> Push | None:
    """The part of a push on which the plate touches discs of `radius` round `points` (m, 2); None
    where it touches none. On its way up to there it would change nothing."""
    start, end = HALF * (1.0 + action[:2]), HALF * (1.0 + action[2:])
    length = math.dist(start, end)
    if length < MIN_PUSH:
        return None
    direction = (end - start) / length
    offset = points - start
    beside = np.abs(offset @ (-direction[1], direction[0])) - PLATE_HALF_WIDTH
    reach = PLATE_RADIUS + radius + GAP
    met = beside < reach
    along = offset[met] @ direction
    half = np.sqrt(reach**2 - np.maximum(beside[met], 0.0) ** 2)
    near, far = along - half, along + half  # between these places the plate would touch
    place = 0.0
    while np.any(inside := (near < place) & (place < far)):
        place = float(near[inside].min())
    place = float(near[near >= place].min(initial=length))
    if place >= length:
        return None
    substeps = math.ceil((length - place) / STRIDE)
    x, y = (start + place * direction).tolist()
    vx, vy = (direction * ((length - place) / (substeps * DT))).tolist()
    return Push(x, y, vx, vy, substeps)


def _arena() -> pymunk.Space:
    """Walls, and nothing between them."""
    space = pymunk.Space()
    space.damping = 0.0
    space.collision_bias = 0.5 ** (1 / DT)
    space.iterations = ITERATIONS
    thick = 100.0
    low, high = -thick, ARENA + thick
    corners = ((low, low), (high, low), (high, high), (low, high))
    for begin, end in zip(corners, (*corners[1:], corners[0]), strict=True):
        wall = pymunk.Segment(space.static_body, begin, end, thick)
        wall.friction = FRICTION
        wall.filter = pymunk.ShapeFilter(categories=WALL)
        space.add(wall)
    return space


def _carry_out(push: Push, substeps: int, space: pymunk.Space, strain: Callable[[], float]) -> int:
    """Let the plate push the particles for so many substeps or until the strain is too great, and
    let them settle; returns the substeps that it was."""
    plate = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
    plate.position = (push.x, push.y)
    plate.angle = math.atan2(push.vy, push.vx)
    plate.velocity = (push.vx, push.vy)
    shape = pymunk.Segment(plate, (0, -PLATE_HALF_WIDTH), (0, PLATE_HALF_WIDTH), PLATE_RADIUS)
    shape.friction = FRICTION
    # Walls and plate are both immovable: Chipmunk cannot solve a contact of theirs.
    shape.filter = pymunk.ShapeFilter(0, PLATE, pymunk.ShapeFilter.ALL_MASKS() ^ WALL)
    space.add(plate, shape)
    done = strained = 0
    while done < substeps and strained < PATIENCE:
        space.step(DT)
        done += 1
        if done % LOOK_EVERY == 0:
            strained = strained + 1 if max(_depth(plate), strain()) > MAX_STRAIN else 0
    space.remove(plate, shape)
    for _ in range(SETTLE_SUBSTEPS):
        space.step(DT)
    return done


def _depth(body: pymunk.Body) -> float:
    """How far a body overlaps those that it touches, px."""
    depths = [0.0]

    def look(arbiter: pymunk.Arbiter) -> None:
        depths.extend(-point.distance for point in arbiter.contact_point_set.points)

    body.each_arbiter(look)
    return max(depths)


def chamfer_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean distance from each point to the nearest of the other set, both ways, added.

    Args:
        a, b: (..., 2 n) and (..., 2 m), x and y of each point by turns; leading dimensions
            broadcast.

    Returns:
        (...), float64, in the points' unit.
    """
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    batch = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    a = np.broadcast_to(a, (*batch, a.shape[-1])).reshape(-1, a.shape[-1] // 2, 1, 2)
    b = np.broadcast_to(b, (*batch, b.shape[-1])).reshape(-1, 1, b.shape[-1] // 2, 2)
    rows = max(1, PAIRS_AT_ONCE // (a.shape[1] * b.shape[2]))
    found = np.empty(len(a))
    for i in range(0, len(a), rows):
        one, other = a[i : i + rows], b[i : i + rows]
        square = (one[..., 0] - other[..., 0]) ** 2 + (one[..., 1] - other[..., 1]) ** 2
        there, back = np.sqrt(square.min(axis=2)), np.sqrt(square.min(axis=1))
        found[i : i + rows] = there.mean(axis=1, dtype=float) + back.mean(axis=1, dtype=float)
    return found.reshape(batch)


def aimed_push(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A noisy push through a random one of the particles (n, 2): an action, float32 (4,)."""
    through = positions[rng.integers(len(positions))] + rng.normal(0.0, 8.0, 2)
    inwards = 1.0 - through / HALF  # of length 1 at the middle of a wall
    heading = rng.normal(0.0, 1.0, 2)
    heading = heading / np.linalg.norm(heading) + 2.0 * inwards * np.linalg.norm(inwards)
    heading /= np.linalg.norm(heading)
    start = through - heading * rng.uniform(20.0, 80.0)
    end = through + heading * rng.uniform(30.0, 200.0)
    action = np.concatenate([start, end]) / HALF - 1.0
    return np.clip(action, -1.0, 1.0).astype(np.float32)
