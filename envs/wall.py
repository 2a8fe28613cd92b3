"""gbp/Wall-v0: steer a dot through the door of a wall that parts two rooms.

Room       65 × 65 px, x to the right, y down. A border of 5 px on each side leaves 5…60 free. A
           vertical wall of width 6 px at `wall_x` (its middle; 32 by default) has a door of
           half-height 4 px at `door_y` (its middle; 32 by default).
Layout     `wall_x` (20…45) and `door_y` (10…55) are arguments of the constructor; with
           `randomize=True` both are drawn at each reset. The reset options "wall_x" and "door_y"
           set them for one episode, so that a layout can be restored; `info` tells them. They are
           to be seen in the pictures, not in the state.
Agent      a point; drawn as a Gaussian dot with a standard deviation of 1.7 px.
Action     Box(-2, 2, (2,)): the step in units of 2 px: next position = position + 2 · action. The
           step ends where it first touches the wall, the door's frame or the border: no sliding
           along it and no tunnelling.
State      [x, y] in px, and the same as proprio.
Success    the distance from the goal is below 4.5 px.
Goals      "random" by default: start and goal lie in opposite rooms. In mode "segment" they are
           25 steps of the behaviour policy apart.
Behaviour  by turns of chance: a random walk (heading noise 0.2 rad per step, step length 1.0 ± 0.4
           in action units, a new heading after a bump); a walk to the door and through it; and a
           straight walk to any point, through walls for all it knows, so that it leans against
           them from every side and at every speed.
Episode    100 steps.

Sources: the task is the Wall of Zhou et al. (DINO-WM, arXiv 2411.04983), after the two rooms of
Sobal et al. (PLDM, arXiv 2502.14819).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .base import GoalMode, GoalReachingEnv, ObsType
from .drawing import AGENT_COLOR, WALL_COLOR, coverage, solid_on_white

ROOM = 65.0
BORDER = 5.0
WALL_HALF_WIDTH = 3.0
DOOR_HALF_HEIGHT = 4.0
WALL_RANGE = (20.0, 45.0)
DOOR_RANGE = (10.0, 55.0)
DOT_STD = 1.7
ACTION_SCALE = 2.0
SUCCESS_DISTANCE = 4.5

Block = tuple[tuple[float, float], tuple[float, float]]  # ((x low, x high), (y low, y high))


class WallEnv(GoalReachingEnv):
    """See the module's docstring.

    Args (beyond the base class's):
        wall_x: x of the wall's middle, px, 20…45.
        door_y: y of the door's middle, px, 10…55.
        randomize: draw both anew at each reset, uniformly; the two arguments are then unused.

    Raises:
        ValueError: a position of wall or door outside its range.
    """

    state_names: ClassVar[tuple[str, ...]] = ("x", "y")
    state_low: ClassVar[np.ndarray] = np.array([BORDER, BORDER])
    state_high: ClassVar[np.ndarray] = np.array([ROOM - BORDER, ROOM - BORDER])
    proprio_index: ClassVar[list[int]] = [0, 1]
    achieved_index: ClassVar[list[int]] = [0, 1]
    action_bound: ClassVar[float] = 2.0
    reset_options: ClassVar[tuple[str, ...]] = ("start", "goal", "wall_x", "door_y")

    def __init__(
        self,
        obs_type: ObsType = "pixels",
        goal_mode: GoalMode = "random",
        goal_steps: int = 25,
        image_size: int = 64,
        render_mode: str | None = None,
        wall_x: float = 32.0,
        door_y: float = 32.0,
        randomize: bool = False,
        continuing_task: bool = False,
    ):
        super().__init__(obs_type, goal_mode, goal_steps, image_size, render_mode, continuing_task)
        self._default_layout = (
            _checked("wall_x", wall_x, WALL_RANGE),
            _checked("door_y", door_y, DOOR_RANGE),
        )
        self.randomize = bool(randomize)
        self.wall_x, self.door_y = self._default_layout
        self._blocks = _blocks(self.wall_x, self.door_y)
        self._position = (BORDER, BORDER)
        self._behavior = _Behavior()

    def set_state(self, state: np.ndarray) -> None:
        self._position = (float(state[0]), float(state[1]))
        self._behavior = _Behavior()

    def get_state(self) -> np.ndarray:
        return np.array(self._position)

    def _advance(self, action: np.ndarray) -> None:
        step_x, step_y = (ACTION_SCALE * action).tolist()
        self._position = _move(self._position, (step_x, step_y), self._blocks)

    def behavior_action(self) -> np.ndarray:
        return self._behavior.action(self._position, self.wall_x, self.door_y, self.np_random)

    def _configure(self, options: dict[str, Any]) -> None:
        wall_x, door_y = self._default_layout
        if self.randomize:
            wall_x = float(self.np_random.uniform(*WALL_RANGE))
            door_y = float(self.np_random.uniform(*DOOR_RANGE))
        wall_x = _checked("wall_x", options.get("wall_x", wall_x), WALL_RANGE)
        door_y = _checked("door_y", options.get("door_y", door_y), DOOR_RANGE)
        self.wall_x, self.door_y = wall_x, door_y
        self._blocks = _blocks(wall_x, door_y)

    def _info(self) -> dict[str, Any]:
        return {**super()._info(), "wall_x": self.wall_x, "door_y": self.door_y}

    def _checked_state(self, name: str, state: Any) -> np.ndarray | None:
        array = super()._checked_state(name, state)
        if array is not None and any(_inside(array.tolist(), block) for block in self._blocks):
            raise ValueError(
                f"{name} {array.tolist()} lies in the wall at x={self.wall_x}, whose door is at "
                f"y={self.door_y}; give a point of a room or of the door"
            )
        return array

    def _sample_start(self) -> np.ndarray:
        return self._sample_in_room(left=bool(self.np_random.random() < 0.5))

    def _sample_goal(self, start: np.ndarray) -> np.ndarray:
        return self._sample_in_room(left=bool(start[0] > self.wall_x))

    def _sample_in_room(self, left: bool) -> np.ndarray:
        x_range = (BORDER, self.wall_x - WALL_HALF_WIDTH)
        if not left:
            x_range = (self.wall_x + WALL_HALF_WIDTH, ROOM - BORDER)
        rng = self.np_random
        return np.array([rng.uniform(*x_range), rng.uniform(BORDER, ROOM - BORDER)])

    def _is_worthwhile(self, start: np.ndarray, goal: np.ndarray) -> bool:
        return self.goal_mode == "segment" or bool(
            (start[0] > self.wall_x) != (goal[0] > self.wall_x)
        )

    def distance(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        difference = np.asarray(achieved_goal, np.float64) - np.asarray(desired_goal, np.float64)
        return np.linalg.norm(difference, axis=-1)

    def success(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        return self.distance(achieved_goal, desired_goal) < SUCCESS_DISTANCE

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        scene = _draw_room(size, self.wall_x, self.door_y)
        centers = (np.arange(size) + 0.5) * (ROOM / size)
        column = np.exp(-0.5 * ((centers - state[0]) / DOT_STD) ** 2)
        row = np.exp(-0.5 * ((centers - state[1]) / DOT_STD) ** 2)
        dot = np.outer(row, column).astype(np.float32)[..., None]
        return (scene + dot * (np.array(AGENT_COLOR, np.float32) - scene) + 0.5).astype(np.uint8)

    def _background(self, size: int) -> np.ndarray:
        return _draw_room(size, self.wall_x, self.door_y).astype(np.uint8)


# Chance of a stretch of wandering, of one to the door, of a straight one.
STRETCHES = (0.3, 0.4, 0.3)
# Chance per step of turning away from a wall while wandering: low enough that it is pushed against.
TURN_AT_WALL = 0.2
# Rad per step, of wandering and of a straight stretch.
HEADING_NOISE, STRAIGHT_NOISE = 0.2, 0.5
# A straight stretch aims at a point that lies at most so far outside of the room, and ends this
# near to it; px.
AIM_MARGIN, ARRIVED = 15.0, 3.0


class _Behavior:
    """Stretches of wandering, of heading for the door and through it, and of heading straight for
    some point, by turns of chance."""

    def __init__(self) -> None:
        self._steps = 0  # left of the present stretch
        self._kind = "wander"
        self._crossing = False
        self._side = 0.0  # the room that the door is headed for from: -1 left, 1 right
        self._heading = 0.0
        self._pace = 1.0
        self._aim = (0.0, 0.0)
        self._last: tuple[float, float] | None = None

    def action(
        self,
        position: tuple[float, float],
        wall_x: float,
        door_y: float,
        rng: np.random.Generator,
    ) -> np.ndarray:
        if self._steps <= 0:
            self._choose(position, wall_x, rng)
        self._steps -= 1
        noise = HEADING_NOISE
        if self._kind == "door":
            self._head_for_door(position, wall_x, door_y)
        elif self._kind == "straight":
            self._head_for(position, self._aim)
            noise = STRAIGHT_NOISE
            if math.dist(position, self._aim) < ARRIVED:
                self._steps = 0
        elif position == self._last and rng.random() < TURN_AT_WALL:
            self._heading = float(rng.uniform(-math.pi, math.pi))
        self._last = position
        self._heading += float(rng.normal(0.0, noise))
        length = self._pace * float(rng.normal(1.0, 0.4))
        step = np.array([math.cos(self._heading), math.sin(self._heading)]) * length
        return np.clip(step, -2.0, 2.0).astype(np.float32)

    def _choose(
        self, position: tuple[float, float], wall_x: float, rng: np.random.Generator
    ) -> None:
        self._kind = str(rng.choice(["wander", "door", "straight"], p=STRETCHES))
        self._crossing = False
        self._side = 1.0 if position[0] > wall_x else -1.0
        self._steps = 40 if self._kind == "door" else int(rng.integers(10, 30))
        self._heading = float(rng.uniform(-math.pi, math.pi))
        self._pace = 1.0
        if self._kind == "straight":
            self._pace = float(rng.uniform(0.5, 2.0))
            x, y = rng.uniform(-AIM_MARGIN, ROOM + AIM_MARGIN, 2).tolist()
            self._aim = (x, y)

    def _head_for_door(self, position: tuple[float, float], wall_x: float, door_y: float) -> None:
        before = wall_x + self._side * (WALL_HALF_WIDTH + 2.0)
        behind = wall_x - self._side * (WALL_HALF_WIDTH + 2.0)
        if not self._crossing:
            self._crossing = math.dist(position, (before, door_y)) < DOOR_HALF_HEIGHT - 1.0
        aim_x = behind if self._crossing else before
        if self._crossing and self._side * (aim_x - position[0]) > 0:
            self._steps, self._kind = 0, "wander"  # it is through, and walks on as it goes
            return
        self._head_for(position, (aim_x, door_y))

    def _head_for(self, position: tuple[float, float], aim: tuple[float, float]) -> None:
        self._heading = math.atan2(aim[1] - position[1], aim[0] - position[0])


def _blocks(wall_x: float, door_y: float) -> tuple[Block, Block]:
    """The wall's two pieces, above and below the door."""
    x_range = (wall_x - WALL_HALF_WIDTH, wall_x + WALL_HALF_WIDTH)
    return (
        (x_range, (-math.inf, door_y - DOOR_HALF_HEIGHT)),
        (x_range, (door_y + DOOR_HALF_HEIGHT, math.inf)),
    )


def _inside(position: tuple[float, float] | list[float], block: Block) -> bool:
    """Whether a point is strictly inside; its faces belong to the free space."""
    return all(low < p < high for p, (low, high) in zip(position, block, strict=True))


def _move(
    position: tuple[float, float], step: tuple[float, float], blocks: tuple[Block, ...]
) -> tuple[float, float]:
    """Where a point gets to that stops at the first face of a block or of the border it meets."""
    share = 1.0
    stop: tuple[int, float] | None = None  # axis and coordinate of the face
    for axis in (0, 1):
        face = ROOM - BORDER if step[axis] > 0 else BORDER
        if step[axis] != 0.0 and (face - position[axis]) / step[axis] < share:
            share, stop = (face - position[axis]) / step[axis], (axis, face)
    for block in blocks:
        spans = [_crossing(position[a], step[a], *block[a]) for a in (0, 1)]
        enter, leave = max(s[0] for s in spans), min(s[1] for s in spans)
        if 0.0 <= enter < min(leave, share):
            axis = 0 if spans[0][0] >= spans[1][0] else 1
            share, stop = enter, (axis, spans[axis][2])
    end = [position[0] + share * step[0], position[1] + share * step[1]]
    if stop is not None:
        end[stop[0]] = stop[1]
    for block in blocks:
        if _inside(end, block):  # by rounding: put it on the nearest face
            depth = [(abs(end[a] - face), a, face) for a in (0, 1) for face in block[a]]
            _, axis, face = min(depth)
            end[axis] = face
    low, high = BORDER, ROOM - BORDER
    return min(max(end[0], low), high), min(max(end[1], low), high)


def _crossing(start: float, step: float, low: float, high: float) -> tuple[float, float, float]:
    """Shares of the step at which one coordinate enters and leaves (low, high), and the face."""
    if step > 0:
        return (low - start) / step, (high - start) / step, low
    if step < 0:
        return (high - start) / step, (low - start) / step, high
    inside = low < start < high
    return (-math.inf, math.inf, low) if inside else (math.inf, -math.inf, low)


def _checked(name: str, value: Any, bounds: tuple[float, float]) -> float:
    number = float(value)
    if not bounds[0] <= number <= bounds[1]:
        raise ValueError(f"{name} must be within {bounds[0]}…{bounds[1]} px, got {value}")
    return number


@lru_cache(maxsize=32)
def _draw_room(size: int, wall_x: float, door_y: float) -> np.ndarray:
    """Border and wall without the dot, float32 (size, size, 3); not to be written to."""
    view = (0.0, ROOM)
    free = coverage(size, view, (BORDER, ROOM - BORDER))
    wall = coverage(size, view, (wall_x - WALL_HALF_WIDTH, wall_x + WALL_HALF_WIDTH))
    door = coverage(size, view, (door_y - DOOR_HALF_HEIGHT, door_y + DOOR_HALF_HEIGHT))
    solid = 1.0 - np.outer(free, free) * (1.0 - np.outer(1.0 - door, wall))
    return solid_on_white(solid, WALL_COLOR)
