"""gbp/PointMaze-v0: steer a point mass through a U-shaped maze (MuJoCo ≥ 3).

Maze       5 × 5 cells of side 1 with their centres at whole numbers, x to the right, y down. The
           outer cells are wall, and so are cells (1, 2) and (2, 2): a corridor leads from (1, 1)
           to (3, 1), through the passage (3, 2), to (3, 3) and (1, 3).
Ball       radius 0.1, density 1000 (mass 4.19), two slide joints with damping 1, motors of gear
           100 and control range ±1, frictionless contact with the walls. Each velocity component
           is clipped to ±5 before each MuJoCo step, and so is at most 5.2263 after it; only a
           glancing hit at a corner can make it more, for one step.
Time       MuJoCo step 0.01 s, 5 of them per environment step (20 Hz).
Action     Box(-1, 1, (2,)): the motors' controls. Full throttle changes the velocity by 1.2 in one
           environment step.
State      [x, y, vx, vy], and the same as proprio.
Success    the distance of (x, y) from the goal's is below 0.5; the velocity does not matter.
Goals      "random" by default: start (at rest) and goal are drawn from the free space, the goal's
           velocity from ±5.2263. In mode "segment" they are 25 steps of the behaviour policy apart.
Behaviour  heads for random places at random speeds with smooth noise, broken by stretches of a
           held action and of independent random actions.
Picture    the cells' free part and 0.25 of the walls round it, from above; the ball is drawn with
           radius 0.2, so that it can be seen at 64 px, and overlaps a wall that it touches.
Episode    100 steps.

MuJoCo's contact solver starts from its last solution; it is cleared at the start of each
environment step, so that the state is all there is.

Sources: the dynamics are those of maze2d-umaze in D4RL (Fu et al., arXiv 2004.07219), whose
coordinates are ours less 0.2 with x and y exchanged; 5 steps per action, the goals and the success
are those of Zhou et al. (DINO-WM, arXiv 2411.04983).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, ClassVar

import mujoco
import numpy as np

from .base import GoalMode, GoalReachingEnv, ObsType
from .drawing import AGENT_COLOR, WALL_COLOR, coverage, fill_circle, solid_on_white

BALL_RADIUS = 0.1
DRAWN_RADIUS = 0.2
SUBSTEPS = 5
SPEED_LIMIT = 5.0
TOP_SPEED = 5.2263  # after one MuJoCo step from the limit
STATE_SPEED = 10.0  # never attained, a corner's hits included
SUCCESS_DISTANCE = 0.5
# The corridor's cells from one end to the other.
CORRIDOR = ((1, 1), (2, 1), (3, 1), (3, 2), (3, 3), (2, 3), (1, 3))
# Walls as (x low, x high, y low, y high); they overlap, so that no seam is felt.
WALLS = (
    (-0.5, 0.5, -0.5, 4.5),
    (3.5, 4.5, -0.5, 4.5),
    (-0.5, 4.5, -0.5, 0.5),
    (-0.5, 4.5, 3.5, 4.5),
    (-0.5, 2.5, 1.5, 2.5),
)
VIEW = (0.25, 3.75)

_XML = """
<mujoco model="point_maze">
  <compiler inertiafromgeom="true"/>
  <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
  <default>
    <joint damping="1" limited="false"/>
    <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1"
          contype="2" conaffinity="1"/>
  </default>
  <worldbody>
    <body name="ball">
      <geom type="sphere" size="{radius}" contype="1"/>
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
    </body>
    {walls}
  </worldbody>
  <actuator>
    <motor joint="x" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
    <motor joint="y" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
  </actuator>
</mujoco>
"""


class PointMazeEnv(GoalReachingEnv):
    """See the module's docstring."""

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 20}  # noqa: RUF012

    state_names: ClassVar[tuple[str, ...]] = ("x", "y", "vx", "vy")
    state_low: ClassVar[np.ndarray] = np.array([0.5, 0.5, -STATE_SPEED, -STATE_SPEED])
    state_high: ClassVar[np.ndarray] = np.array([3.5, 3.5, STATE_SPEED, STATE_SPEED])
    proprio_index: ClassVar[list[int]] = [0, 1, 2, 3]
    achieved_index: ClassVar[list[int]] = [0, 1]

    def __init__(
        self,
        obs_type: ObsType = "pixels",
        goal_mode: GoalMode = "random",
        goal_steps: int = 25,
        image_size: int = 64,
        render_mode: str | None = None,
        continuing_task: bool = False,
    ):
        super().__init__(obs_type, goal_mode, goal_steps, image_size, render_mode, continuing_task)
        self._model = mujoco.MjModel.from_xml_string(_maze_xml())
        self._data = mujoco.MjData(self._model)
        self._exact = np.array([*CORRIDOR[0], 0.0, 0.0], np.float64)
        self._behavior = _Behavior()

    def set_state(self, state: np.ndarray) -> None:
        self._exact = np.array(state, dtype=np.float64)
        self._behavior = _Behavior()

    def get_state(self) -> np.ndarray:
        return self._exact.copy()

    def _advance(self, action: np.ndarray) -> None:
        """Load the state vector, simulate, read it back: what is not in it cannot matter."""
        model, data = self._model, self._data
        data.time = 0.0
        data.qacc_warmstart[:] = 0.0
        data.qpos[:] = self._exact[:2]
        data.qvel[:] = self._exact[2:]
        data.ctrl[:] = action
        velocity = data.qvel
        for _ in range(SUBSTEPS):
            velocity[0] = min(max(velocity[0], -SPEED_LIMIT), SPEED_LIMIT)
            velocity[1] = min(max(velocity[1], -SPEED_LIMIT), SPEED_LIMIT)
            mujoco.mj_step(model, data)
        self._exact = np.array([*data.qpos, *velocity])

    def behavior_action(self) -> np.ndarray:
        return self._behavior.action(self._exact, self.np_random)

    def _checked_state(self, name: str, state: Any) -> np.ndarray | None:
        array = super()._checked_state(name, state)
        if array is not None and not _is_free(float(array[0]), float(array[1]), 0.0):
            raise ValueError(
                f"{name} {array.tolist()} lies in a wall; (x, y) must be in one of the cells "
                f"{CORRIDOR}, each of side 1 round its centre"
            )
        return array

    def _sample_start(self) -> np.ndarray:
        return np.array([*_sample_place(self.np_random), 0.0, 0.0])

    def _sample_goal(self, start: np.ndarray) -> np.ndarray:
        velocity = self.np_random.uniform(-TOP_SPEED, TOP_SPEED, 2)
        return np.array([*_sample_place(self.np_random), *velocity])

    def distance(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        difference = np.asarray(achieved_goal, np.float64) - np.asarray(desired_goal, np.float64)
        return np.linalg.norm(difference, axis=-1)

    def success(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        return self.distance(achieved_goal, desired_goal) < SUCCESS_DISTANCE

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        picture = _draw_maze(size).copy()
        scale = size / (VIEW[1] - VIEW[0])
        fill_circle(picture, (state[:2] - VIEW[0]) * scale, DRAWN_RADIUS * scale, AGENT_COLOR)
        return picture

    def _background(self, size: int) -> np.ndarray:
        return _draw_maze(size)


class _Behavior:
    """Journeys to random places at random speeds, held actions and random actions, by turns."""

    def __init__(self) -> None:
        self._kind = "journey"
        self._steps = 0
        self._place = (0.0, 0.0)
        self._speed = 0.0
        self._noise_std = 0.0
        self._held: np.ndarray = np.zeros(2)
        self._noise: np.ndarray = np.zeros(2)

    def action(self, state: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self._steps <= 0:
            self._choose(rng)
        self._steps -= 1
        if self._kind == "random":
            return rng.uniform(-1.0, 1.0, 2).astype(np.float32)
        wish = self._held if self._kind == "held" else self._steer(state)
        self._noise = 0.7 * self._noise + rng.normal(0.0, self._noise_std, 2)
        return np.clip(wish + self._noise, -1.0, 1.0).astype(np.float32)

    def _choose(self, rng: np.random.Generator) -> None:
        self._kind = str(rng.choice(["journey", "held", "random"], p=[0.6, 0.2, 0.2]))
        self._steps = int(rng.integers(4, 12)) if self._kind == "held" else 10
        if self._kind == "journey":
            self._steps = int(rng.integers(15, 50))
            self._place = _sample_place(rng)
            self._speed = float(rng.uniform(0.5, 5.0))
        self._noise_std = float(rng.uniform(0.05, 0.4))
        self._held = rng.uniform(-1.0, 1.0, 2)

    def _steer(self, state: np.ndarray) -> np.ndarray:
        """Full throttle towards the wanted velocity, or less when it is nearly attained."""
        x, y, vx, vy = state.tolist()
        if math.dist((x, y), self._place) < 0.2:
            self._steps = 0
        aim_x, aim_y = waypoint((x, y), self._place)
        length = max(math.dist((x, y), (aim_x, aim_y)), 1e-6)
        wish_x, wish_y = (self._speed * d / length for d in (aim_x - x, aim_y - y))
        return np.clip([wish_x - vx, wish_y - vy], -1.0, 1.0)


def waypoint(here: tuple[float, float], place: tuple[float, float]) -> tuple[float, float]:
    """The next point to head for on the way to `place`: itself where the straight line is free,
    else the centre of the next cell of the corridor."""
    begin, end = _cell_index(here), _cell_index(place)
    if abs(end - begin) <= 1:
        return place
    x, y = CORRIDOR[begin + (1 if end > begin else -1)]
    return float(x), float(y)


def _cell_index(position: tuple[float, float]) -> int:
    """The corridor's cell that is nearest."""
    return min(range(len(CORRIDOR)), key=lambda i: math.dist(position, CORRIDOR[i]))


def _is_free(x: float, y: float, margin: float) -> bool:
    """Whether a point keeps `margin` from all walls."""
    return not any(
        low_x - margin < x < high_x + margin and low_y - margin < y < high_y + margin
        for low_x, high_x, low_y, high_y in WALLS
    )


def _sample_place(rng: np.random.Generator) -> tuple[float, float]:
    """A position that touches no wall, uniformly."""
    while True:
        x, y = rng.uniform(0.5 + BALL_RADIUS, 3.5 - BALL_RADIUS, 2).tolist()
        if _is_free(x, y, BALL_RADIUS):
            return x, y


def _maze_xml() -> str:
    walls = [
        f'<geom type="box" pos="{(x0 + x1) / 2} {(y0 + y1) / 2} 0" '
        f'size="{(x1 - x0) / 2} {(y1 - y0) / 2} 0.2"/>'
        for x0, x1, y0, y1 in WALLS
    ]
    return _XML.format(radius=BALL_RADIUS, walls="\n    ".join(walls))


@lru_cache(maxsize=8)
def _draw_maze(size: int) -> np.ndarray:
    """The walls from above, uint8 (size, size, 3); not to be written to."""
    free = np.ones((size, size))
    for x0, x1, y0, y1 in WALLS:
        free *= 1.0 - np.outer(coverage(size, VIEW, (y0, y1)), coverage(size, VIEW, (x0, x1)))
    return solid_on_white(1.0 - free, WALL_COLOR).astype(np.uint8)
