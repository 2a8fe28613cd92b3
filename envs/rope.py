"""gbp/Rope-v0: push a rope into a shape with a plate.

A plain 2-D stand-in for the rope task of arXiv 2512.09929, which is simulated in PyFleX with a
robot arm. Arena, plate, motion, action, proprio, distance and behaviour: see `particles.py`.

Rope       24 segments of 14 px in a chain, 14 px thick with round ends; friction 0.3. It does not
           pass through itself.
Bending    a joint resists bending with a constant torque, about what it takes to swing 3 segments
           at the plate's speed, and so keeps its bend; from more than 0.4 rad it springs back with
           a torque that swings 6. It never bends by more than π/4.
State      [x 0, y 0, x 1, y 1, …] of the segments' centres in px, then [θ 0, θ 1, …], their
           angles, 0…2π. Success regards the centres alone.
Start      a random smooth curve anywhere in the arena.
Success    the distance is below 0.08: centres are 10 px off on average, three quarters of the
           thickness. There a rope looks as the goal does; at 0.1 its bends may still be others.
           "segment" goals are 0.8 from the start in the median.
Goals      "segment" by default, 5 pushes of the behaviour policy away. In mode "random" the rope
           lies straight or bent into an arc, anywhere and in any direction.
Episode    20 steps.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pymunk

from .drawing import Color, blank, fill_circles, fill_polygon
from .particles import ARENA, FRICTION, PARTICLE, TOLERANCE, ParticleEnv

SEGMENTS = 24
LENGTH = 14.0  # of a segment, from joint to joint
ROPE_RADIUS = 7.0
FREE_BEND, MAX_BEND = 0.4, math.pi / 4
HOLDING_TORQUE, SPRING_TORQUE = 1.5e6, 4.0e6  # a segment's mass is 1
SPRING_BACK = 0.1  # share of what a bend is too much that is undone in a hundredth of a second
NEIGHBORS = 3  # segments at most so far apart along the rope do not collide
MAX_CURVATURE = 0.2  # rad per joint, of goals
CLEARANCE = 2.0  # px between strands and to the walls, of starts and goals
ROPE_COLOR: Color = (178, 60, 60)


class RopeEnv(ParticleEnv):
    """See the module's docstring."""

    state_names: ClassVar[tuple[str, ...]] = (
        *(f"{axis} {i}" for i in range(SEGMENTS) for axis in "xy"),
        *(f"theta {i}" for i in range(SEGMENTS)),
    )
    state_periods: ClassVar[dict[str, float]] = {f"theta {i}": 2 * math.pi for i in range(SEGMENTS)}
    state_low: ClassVar[np.ndarray] = np.zeros(3 * SEGMENTS)
    state_high: ClassVar[np.ndarray] = np.repeat([ARENA, 2 * math.pi], [2 * SEGMENTS, SEGMENTS])
    achieved_index: ClassVar[list[int]] = list(range(2 * SEGMENTS))
    particles: ClassVar[int] = SEGMENTS
    radius: ClassVar[float] = ROPE_RADIUS
    success_distance: ClassVar[float] = 0.08

    def _populate(self, space: pymunk.Space, state: np.ndarray) -> list[pymunk.Body]:
        moment = pymunk.moment_for_segment(1.0, BEGIN, END, ROPE_RADIUS)
        angles = np.unwrap(state[2 * SEGMENTS :]).tolist()
        bodies: list[pymunk.Body] = []
        for i, position in enumerate(self._positions(state).tolist()):
            body = pymunk.Body(1.0, moment)
            body.position, body.angle = tuple(position), angles[i]
            segment = pymunk.Segment(body, BEGIN, END, ROPE_RADIUS)
            segment.friction = FRICTION
            segment.filter = ROLES[i]
            space.add(body, segment)
            if bodies:
                space.add(*_joint(bodies[-1], body))
            bodies.append(body)
        return bodies

    def _read(self, bodies: list[pymunk.Body]) -> np.ndarray:
        positions = np.array([body.position for body in bodies])
        angles = np.array([body.angle for body in bodies]) % (2 * math.pi)
        return np.concatenate([positions.ravel(), angles])

    def _strain(self, bodies: list[pymunk.Body]) -> float:
        return float(_gaps(self._read(bodies)).max())

    def _flaw(self, state: np.ndarray) -> str | None:
        gaps = _gaps(state)
        if gaps.max() > TOLERANCE:
            return f"segments {gaps.argmax()} and {gaps.argmax() + 1} are {gaps.max():.1f} px apart"
        depth = 2 * ROPE_RADIUS - _strand_distance(state)
        if depth > 2 * TOLERANCE:
            return f"the rope overlaps itself by {depth:.1f} px"
        return super()._flaw(state)

    def _outline(self, state: np.ndarray) -> np.ndarray:
        return np.concatenate([self._positions(state), *_ends(state)])

    def _sample_start(self) -> np.ndarray:
        rng = self.np_random
        while True:
            smooth = np.convolve(rng.normal(0.0, 0.5, SEGMENTS + 3), np.full(5, 0.2), "valid")
            bends = np.clip(rng.normal(0.0, 0.1) + smooth, -FREE_BEND, FREE_BEND)
            state = _laid_out(bends, rng)
            if state is not None:
                return state

    def _sample_goal(self, start: np.ndarray) -> np.ndarray:
        rng = self.np_random
        while True:
            curvature = rng.integers(2) * rng.uniform(-MAX_CURVATURE, MAX_CURVATURE)
            state = _laid_out(np.full(SEGMENTS - 1, curvature), rng)
            if state is not None:
                return state

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        picture = blank(size)
        scale = size / ARENA
        begins, ends = (point * scale for point in _ends(state))
        radius = ROPE_RADIUS * scale
        aside = (ends - begins)[:, ::-1] * (-1.0, 1.0)
        aside *= radius / np.linalg.norm(aside, axis=1, keepdims=True)
        corners = np.stack([begins - aside, ends - aside, ends + aside, begins + aside], axis=1)
        for segment in corners:
            fill_polygon(picture, segment, ROPE_COLOR)
        fill_circles(picture, np.concatenate([begins, ends[-1:]]), radius, ROPE_COLOR)
        return picture


# A segment in body coordinates.
BEGIN, END = (-LENGTH / 2, 0.0), (LENGTH / 2, 0.0)


def _role(i: int) -> pymunk.ShapeFilter:
    """Collisions of segment i: with all but itself and its neighbours."""
    near = range(max(i - NEIGHBORS, 0), min(i + NEIGHBORS + 1, SEGMENTS))
    mask = pymunk.ShapeFilter.ALL_MASKS() ^ sum(PARTICLE << k for k in near)
    return pymunk.ShapeFilter(0, PARTICLE << i, mask)


ROLES = [_role(i) for i in range(SEGMENTS)]
# [i, j]: whether segments i and j collide.
STRANGERS = np.abs(np.subtract.outer(np.arange(SEGMENTS), np.arange(SEGMENTS))) > NEIGHBORS


def _joint(last: pymunk.Body, body: pymunk.Body) -> list[pymunk.Constraint]:
    """What connects a segment to the one before it."""
    holding = pymunk.SimpleMotor(last, body, 0.0)
    holding.max_force = HOLDING_TORQUE
    spring = pymunk.RotaryLimitJoint(last, body, -FREE_BEND, FREE_BEND)
    spring.max_force = SPRING_TORQUE
    spring.error_bias = (1.0 - SPRING_BACK) ** 100
    limit = pymunk.RotaryLimitJoint(last, body, -MAX_BEND, MAX_BEND)
    pivot = pymunk.PivotJoint(last, body, END, BEGIN)
    limit.error_bias = pivot.error_bias = 0.5**100
    return [holding, spring, limit, pivot]


def _ends(state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each segment begins and where it ends, 2 × (24, 2), px."""
    centers, angles = state[: 2 * SEGMENTS].reshape(-1, 2), state[2 * SEGMENTS :]
    along = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * (LENGTH / 2)
    return centers - along, centers + along


def _gaps(state: np.ndarray) -> np.ndarray:
    """How far each segment's begin is from the end of the one before it, (23,), px."""
    begins, ends = _ends(state)
    return np.linalg.norm(begins[1:] - ends[:-1], axis=1)


def _strand_distance(state: np.ndarray) -> float:
    """Distance between the middle lines of segments that collide, px, seen at their centres and
    ends: at most a quarter of a segment's length too great."""
    points = np.stack([state[: 2 * SEGMENTS].reshape(-1, 2), *_ends(state)], axis=1)
    apart = np.linalg.norm(points[:, None, :, None] - points[None, :, None], axis=-1)
    return float(apart.min(axis=(2, 3))[STRANGERS].min())


def _laid_out(bends: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The state of a rope with these bends (23,), in a random direction at a random place; None
    where it does not fit into the arena or lies across itself."""
    angles = rng.uniform(0.0, 2 * math.pi) + np.concatenate([[0.0], np.cumsum(bends)])
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * LENGTH
    joints = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    margin = ROPE_RADIUS + CLEARANCE
    low, high = margin - joints.min(axis=0), ARENA - margin - joints.max(axis=0)
    if np.any(low > high):
        return None
    joints += rng.uniform(low, high)
    centers = (joints[:-1] + joints[1:]) / 2
    state = np.concatenate([centers.ravel(), angles % (2 * math.pi)])
    return state if _strand_distance(state) > 2 * ROPE_RADIUS + CLEARANCE else None
