"""gbp/Granular-v0: push a hundred grains into a shape with a plate.

A plain 2-D stand-in for the granular task of arXiv 2512.09929, which is simulated in PyFleX with a
robot arm. Arena, plate, motion, action, proprio, distance and behaviour: see `particles.py`.

Grains     100 discs of radius 9 px; friction 0.3.
State      [x 0, y 0, x 1, y 1, …] in px; 9…503 but for overlap.
Start      scattered over a square of 240…494 px anywhere in the arena.
Success    the distance is below 0.07: grains are 9 px off on average, their radius. There the
           heaps look as the goal's do. "segment" goals are 0.14 from the start in the median, as
           most grains stay where they are; one push makes about 0.05.
Goals      "segment" by default, 5 pushes of the behaviour policy away. In mode "random" the grains
           fill a square of 171…252 px anywhere in the arena evenly, 10 by 10.
Episode    20 steps.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pymunk

from .drawing import Color, blank, fill_circles
from .particles import ARENA, FRICTION, PARTICLE, TOLERANCE, ParticleEnv

SIDE = 10  # grains along a side of a square of all
GRAINS = SIDE**2
GRAIN_RADIUS = 9.0
START_SIDES = (240.0, ARENA - 2 * GRAIN_RADIUS)
GOAL_SPACINGS = (19.0, 28.0)
GRAIN_COLOR: Color = (178, 121, 60)


class GranularEnv(ParticleEnv):
    """See the module's docstring."""

    state_names: ClassVar[tuple[str, ...]] = tuple(f"{a} {i}" for i in range(GRAINS) for a in "xy")
    state_low: ClassVar[np.ndarray] = np.zeros(2 * GRAINS)
    state_high: ClassVar[np.ndarray] = np.full(2 * GRAINS, ARENA)
    achieved_index: ClassVar[list[int]] = list(range(2 * GRAINS))
    particles: ClassVar[int] = GRAINS
    radius: ClassVar[float] = GRAIN_RADIUS
    success_distance: ClassVar[float] = 0.07

    def _populate(self, space: pymunk.Space, state: np.ndarray) -> list[pymunk.Body]:
        moment = pymunk.moment_for_circle(1.0, 0.0, GRAIN_RADIUS)
        role = pymunk.ShapeFilter(categories=PARTICLE)
        bodies = []
        for x, y in self._positions(state).tolist():
            body = pymunk.Body(1.0, moment)
            body.position = (x, y)
            grain = pymunk.Circle(body, GRAIN_RADIUS)
            grain.friction = FRICTION
            grain.filter = role
            space.add(body, grain)
            bodies.append(body)
        return bodies

    def _read(self, bodies: list[pymunk.Body]) -> np.ndarray:
        return np.array([body.position for body in bodies]).ravel()

    def _flaw(self, state: np.ndarray) -> str | None:
        grains = self._positions(state)
        distance = np.linalg.norm(grains[:, None] - grains, axis=-1)
        np.fill_diagonal(distance, np.inf)
        depth = 2 * GRAIN_RADIUS - distance.min()
        if depth > 2 * TOLERANCE:
            one, other = divmod(int(distance.argmin()), GRAINS)
            return f"grains {one} and {other} overlap by {depth:.1f} px"
        return super()._flaw(state)

    def _sample_start(self) -> np.ndarray:
        rng = self.np_random
        side = rng.uniform(*START_SIDES)
        low = _corner(side, rng)
        grains = np.full((GRAINS, 2), np.inf)
        placed = 0
        while placed < GRAINS:
            place = rng.uniform(low, low + side)
            if ((grains - place) ** 2).sum(axis=1).min() > (2 * GRAIN_RADIUS) ** 2:
                grains[placed] = place
                placed += 1
        return grains.ravel()

    def _sample_goal(self, start: np.ndarray) -> np.ndarray:
        side = (SIDE - 1) * self.np_random.uniform(*GOAL_SPACINGS)
        axis = np.linspace(0.0, side, SIDE)
        square = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
        return (square + _corner(side, self.np_random)).ravel()

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        picture = blank(size)
        scale = size / ARENA
        fill_circles(picture, self._positions(state) * scale, GRAIN_RADIUS * scale, GRAIN_COLOR)
        return picture


def _corner(side: float, rng: np.random.Generator) -> np.ndarray:
    """Where a square for grains' centres begins, anywhere in the arena."""
    return rng.uniform(GRAIN_RADIUS, ARENA - GRAIN_RADIUS - side, 2)
