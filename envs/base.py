"""What all goal-reaching environments share: observations, goals, rewards, rendering.

A subclass says what its state is, how it moves and how it is drawn; see `GoalReachingEnv`.

Observation, `obs_type="pixels"`: Dict with
    pixels         uint8   (S, S, 3)  the scene, without the goal
    proprio        float32 (p,)       what the agent senses of itself, in env units
    goal_pixels    uint8   (S, S, 3)  the scene in the goal state, drawn as an observation
    goal_proprio   float32 (p,)       the proprioception in the goal state
Observation, `obs_type="state"`: Dict with `observation`, `achieved_goal`, `desired_goal`, float32,
    as Stable-Baselines3's HerReplayBuffer expects.
Reward: -1 per step, 0 on success. `terminated` on success, but for `continuing_task=True`. `info`
has `is_success`, `state` and `goal_state` (float64, exact), `distance`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from .drawing import blank

ObsType = Literal["pixels", "state"]
GoalMode = Literal["segment", "random"]

_MAX_DRAWS = 1000
_RENDER_SIZE = 384


class GoalReachingEnv(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """Base class; see the module's docstring for observations, rewards and info.

    Args:
        obs_type: "pixels" for a world model, "state" for RL baselines (nothing is drawn).
        goal_mode: "segment": the goal is where the env's own behaviour policy is after
            `goal_steps` steps from the start; "random": start and goal are independent.
        goal_steps: environment steps between start and goal in "segment" mode, ≥ 1.
        image_size: S, pixels per side of `pixels` and `goal_pixels`, ≥ 16.
        render_mode: None, "rgb_array" or "human" (a pygame window).
        continuing_task: the episode goes on after a success, to the end of its steps, with a reward
            of 0 in each step that ends in one.

    Subclasses set the class attributes below and implement the methods that raise
    NotImplementedError.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 10}  # noqa: RUF012

    state_names: ClassVar[tuple[str, ...]]
    state_periods: ClassVar[dict[str, float]] = {}  # of the state numbers that are angles
    state_low: ClassVar[np.ndarray]
    state_high: ClassVar[np.ndarray]
    proprio_index: ClassVar[list[int]]
    achieved_index: ClassVar[list[int]]
    action_size: ClassVar[int] = 2
    action_bound: ClassVar[float] = 1.0
    reset_options: ClassVar[tuple[str, ...]] = ("start", "goal")

    def __init__(
        self,
        obs_type: ObsType = "pixels",
        goal_mode: GoalMode = "segment",
        goal_steps: int = 25,
        image_size: int = 64,
        render_mode: str | None = None,
        continuing_task: bool = False,
    ):
        check_choice("obs_type", obs_type, get_args(ObsType))
        check_choice("goal_mode", goal_mode, get_args(GoalMode))
        check_choice("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        if goal_steps < 1:
            raise ValueError(f"goal_steps must be at least 1, got {goal_steps}")
        if image_size < 16:
            raise ValueError(f"image_size must be at least 16 pixels, got {image_size}")
        self.obs_type = obs_type
        self.goal_mode = goal_mode
        self.goal_steps = int(goal_steps)
        self.image_size = int(image_size)
        self.render_mode = render_mode
        self.continuing_task = bool(continuing_task)
        bound = self.action_bound
        self.action_space = spaces.Box(-bound, bound, (self.action_size,), np.float32)
        self.observation_space = self._make_observation_space()
        self._state = np.zeros(len(self.state_names))
        self._goal_state = np.zeros(len(self.state_names))
        self._goal_pixels: np.ndarray | None = None
        self._window: Any = None
        self._clock: Any = None
        if obs_type == "state":
            self.compute_reward = self._compute_reward

    @property
    def mirror_symmetry(self) -> dict[str, Any]:
        """Under which reflections the env looks and moves the same; empty for none.

        axes: "x" swaps left and right, "y" top and bottom, "xy" both. proprio, action: a letter per
        number, the axis that turns its sign or "-". proprio_center: where the mirror stands.
        """
        return {}

    # What a subclass provides ----------------------------------------------------------------

    def set_state(self, state: np.ndarray) -> None:
        """Put the simulator into `state` (float64), exactly, and forget the behaviour policy's
        intention."""
        raise NotImplementedError

    def get_state(self) -> np.ndarray:
        """The simulator's state vector, float64; `set_state` restores it bit for bit."""
        raise NotImplementedError

    def _advance(self, action: np.ndarray) -> None:
        """Move the simulator by one environment step; `action` is float64 and inside the box."""
        raise NotImplementedError

    def behavior_action(self) -> np.ndarray:
        """The behaviour policy's noisy action (float32, inside the action space) for the present
        state; its randomness is `self.np_random`."""
        raise NotImplementedError

    def _sample_start(self) -> np.ndarray:
        """A random start state."""
        raise NotImplementedError

    def _sample_goal(self, start: np.ndarray) -> np.ndarray:
        """A random goal state for goal_mode "random"."""
        raise NotImplementedError

    def _is_worthwhile(self, start: np.ndarray, goal: np.ndarray) -> bool:
        """Whether reaching `goal` from `start` asks for what the task is about."""
        return True

    def distance(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        """Distance that success is judged by, vectorised over leading dimensions."""
        raise NotImplementedError

    def success(self, achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        """Whether the goal is reached, bool, vectorised over leading dimensions."""
        raise NotImplementedError

    def draw(self, state: np.ndarray, size: int) -> np.ndarray:
        """The scene in `state`, uint8 (size, size, 3), as an observation shows it."""
        raise NotImplementedError

    # Gymnasium's interface --------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; `options` may hold "start" and "goal", state vectors.

        Raises:
            ValueError: an unknown option, or a state of the wrong shape, with NaN or outside the
                bounds.
        """
        super().reset(seed=seed)
        options = dict(options or {})
        for key in options:
            check_choice("option of reset()", key, self.reset_options)
        self._configure(options)
        start = self._checked_state("start", options.get("start"))
        goal = self._checked_state("goal", options.get("goal"))
        start, goal = self._draw_task(start, goal)
        self.set_state(start)
        self._state = self.get_state()
        self._goal_state = goal
        self._goal_pixels = None
        if self.render_mode == "human":
            self.render()
        return self._observation(), self._info()

    def step(
        self, action: np.ndarray
    ) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Advance by one step; actions outside the box are clipped.

        Raises:
            ValueError: the action has the wrong shape or is not finite.
        """
        self._advance(self._checked_action(action))
        self._state = self.get_state()
        info = self._info()
        reached = info["is_success"]
        terminated = reached and not self.continuing_task
        if self.render_mode == "human":
            self.render()
        return self._observation(), 0.0 if reached else -1.0, terminated, False, info

    def _compute_reward(
        self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any
    ) -> Any:
        """0 where the goal is reached, -1 elsewhere, over any leading batch dimensions.

        It is `compute_reward` if and only if obs_type is "state": Stable-Baselines3 takes an
        environment with that name for one that has `achieved_goal` in its observations.
        """
        reward = np.where(self.success(achieved_goal, desired_goal), 0.0, -1.0)
        return reward if reward.ndim else float(reward)

    def render(self) -> np.ndarray | None:
        """The scene with the goal shown faintly: uint8 (384, 384, 3), or a window in "human"."""
        if self.render_mode is None:
            gym.logger.warn("render() without render_mode; use gym.make(..., render_mode=...)")
            return None
        scene = self.draw(self._state, _RENDER_SIZE).astype(np.float32)
        goal = self.draw(self._goal_state, _RENDER_SIZE).astype(np.float32)
        frame = self._overlay_goal(scene, goal).astype(np.uint8)
        if self.render_mode == "rgb_array":
            return frame
        self._show(frame)
        return None

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            import pygame

            pygame.display.quit()
            self._window = self._clock = None

    # Details ----------------------------------------------------------------------------------

    def _configure(self, options: dict[str, Any]) -> None:
        """Take up options of reset() beyond start and goal; called before states are drawn."""

    def _background(self, size: int) -> np.ndarray:
        """The scene without anything that moves, uint8 (size, size, 3)."""
        return blank(size)

    def _overlay_goal(self, scene: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Blend the goal picture into the scene, a green ghost where the scene has nothing."""
        background = self._background(scene.shape[0]).astype(np.float32)
        in_goal = np.abs(goal - background).max(axis=-1, keepdims=True) > 8
        in_scene = np.abs(scene - background).max(axis=-1, keepdims=True) > 8
        ghost = 0.55 * scene + 0.45 * np.array([90.0, 200.0, 90.0], np.float32)
        return np.where(in_goal & ~in_scene, ghost, scene)

    def _make_observation_space(self) -> spaces.Space[Any]:
        low, high = self.state_low.astype(np.float32), self.state_high.astype(np.float32)
        if self.obs_type == "state":
            goal = spaces.Box(low[self.achieved_index], high[self.achieved_index], dtype=np.float32)
            return spaces.Dict(
                {
                    "observation": spaces.Box(low, high, dtype=np.float32),
                    "achieved_goal": goal,
                    "desired_goal": goal,
                }
            )
        picture = spaces.Box(0, 255, (self.image_size, self.image_size, 3), np.uint8)
        proprio = self._make_proprio_space()
        return spaces.Dict(
            {
                "pixels": picture,
                "proprio": proprio,
                "goal_pixels": picture,
                "goal_proprio": proprio,
            }
        )

    def _make_proprio_space(self) -> spaces.Box:
        low, high = self.state_low.astype(np.float32), self.state_high.astype(np.float32)
        return spaces.Box(low[self.proprio_index], high[self.proprio_index], dtype=np.float32)

    def _observation(self) -> dict[str, np.ndarray]:
        state, goal = self._state, self._goal_state
        if self.obs_type == "state":
            return {
                "observation": state.astype(np.float32),
                "achieved_goal": self._achieved(state),
                "desired_goal": self._achieved(goal),
            }
        if self._goal_pixels is None:
            self._goal_pixels = self.draw(goal, self.image_size)
        return {
            "pixels": self.draw(state, self.image_size),
            "proprio": self._proprio(state),
            "goal_pixels": self._goal_pixels.copy(),
            "goal_proprio": self._proprio(goal),
        }

    def _proprio(self, state: np.ndarray) -> np.ndarray:
        """What the agent senses of itself, float32; inside the space of `_make_proprio_space`."""
        return state[self.proprio_index].astype(np.float32)

    def _achieved(self, state: np.ndarray) -> np.ndarray:
        """What success is judged by; float32 as in the observation, so that the step's reward and
        one computed from observations never differ."""
        return state[self.achieved_index].astype(np.float32)

    def _info(self) -> dict[str, Any]:
        achieved, desired = self._achieved(self._state), self._achieved(self._goal_state)
        return {
            "is_success": bool(self.success(achieved, desired)),
            "state": self._state.copy(),
            "goal_state": self._goal_state.copy(),
            "distance": float(self.distance(achieved, desired)),
        }

    def _draw_task(
        self, start: np.ndarray | None, goal: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fill in what is not given, until the pair is a task."""
        if start is not None and goal is not None:
            return start, goal
        for _ in range(_MAX_DRAWS):
            first = self._sample_start() if start is None else start
            if goal is not None:
                last = goal
            elif self.goal_mode == "random":
                last = self._sample_goal(first)
            else:
                last = self._behavior_outcome(first)
            reached = self.success(self._achieved(first), self._achieved(last))
            if not reached and self._is_worthwhile(first, last):
                return first, last
        raise RuntimeError(
            f"no task found in {_MAX_DRAWS} draws with goal_mode={self.goal_mode!r}, "
            f"goal_steps={self.goal_steps}; give both start and goal, or more goal_steps"
        )

    def _behavior_outcome(self, start: np.ndarray) -> np.ndarray:
        self.set_state(start)
        for _ in range(self.goal_steps):
            self._advance(self.behavior_action().astype(np.float64))
        return self.get_state()

    def _checked_state(self, name: str, state: Any) -> np.ndarray | None:
        if state is None:
            return None
        array = np.asarray(state, dtype=np.float64)
        expected = (len(self.state_names),)
        if array.shape != expected:
            names = ", ".join(self.state_names)
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}: [{names}]")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} must be finite, got {array.tolist()}")
        outside = np.flatnonzero((array < self.state_low) | (array > self.state_high))
        if len(outside):
            i = outside[0]
            raise ValueError(
                f"{name} lies outside the bounds: {self.state_names[i]} is {array[i]}, "
                f"expected {self.state_low[i]} to {self.state_high[i]}"
            )
        return array.copy()

    def _checked_action(self, action: Any) -> np.ndarray:
        array = np.asarray(action, dtype=np.float64)
        if array.shape != self.action_space.shape:
            raise ValueError(
                f"action has shape {array.shape}, expected {self.action_space.shape}; "
                "a batch of actions belongs to a vector env"
            )
        if not np.all(np.isfinite(array)):
            raise ValueError(f"action must be finite, got {array.tolist()}")
        return np.clip(array, -self.action_bound, self.action_bound)

    def _show(self, frame: np.ndarray) -> None:
        try:
            import pygame
        except ImportError as error:
            raise gym.error.DependencyNotInstalled(
                'render_mode="human" needs pygame: pip install pygame'
            ) from error
        if self._window is None:
            pygame.display.init()
            self._clock = pygame.time.Clock()
            self._window = pygame.display.set_mode(frame.shape[:2])
            pygame.display.set_caption(type(self).__name__)
        pygame.event.pump()
        self._window.blit(pygame.surfarray.make_surface(frame.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()
        self._clock.tick(self.metadata["render_fps"])


def check_choice(name: str, value: Any, known: tuple[Any, ...]) -> None:
    """Raise a ValueError that lists the known values, unless `value` is one of them."""
    if value not in known:
        listing = ", ".join(repr(k) for k in known)
        raise ValueError(f"unknown {name} {value!r}; known: {listing}")
