"""Videos of episodes: what happens, what is wanted, and what the model imagines."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec

from .types import Latent, Plan

SIZE = 384
CAPTION = 32
INK, GOOD, BAD = (40, 40, 40), (30, 140, 50), (200, 40, 40)
HOLD = 10  # frames for which the outcome is shown


class Film(NamedTuple):
    """One episode that was played for its frames.

    frames: uint8 (h, w, 3), one per step and the outcome, which is held for HOLD frames.
    success, steps, distance: as in `report.Episode`.
    """

    frames: list[np.ndarray]
    success: bool
    steps: int
    distance: float


def record_episodes(
    agent: Any, env_id: str | EnvSpec, seeds: Iterable[int], path: str | Path, **env_kwargs: Any
) -> list[bool]:
    """Play one episode per seed and write them, one after the other, into one mp4.

    agent: as in `evaluate`; of an agent with a world model the imagined frames are shown too.
    env_kwargs: passed to `gymnasium.make`. Returns which episodes were a success.
    """
    check_video_name(path)
    outcomes = []
    frames: list[np.ndarray] = []
    with gym.make(env_id, **{**env_kwargs, "render_mode": "rgb_array"}) as env:
        for seed in seeds:
            film = film_episode(agent, env, seed)
            frames += film.frames
            outcomes.append(film.success)
        write_video(path, frames, env.metadata.get("render_fps", 10))
    return outcomes


def record_episode(agent: Any, env: gym.Env, seed: int | None, path: str | Path) -> bool:
    """Play one episode in `env`, made with render_mode="rgb_array", and write an mp4.

    Returns whether it was a success.
    """
    check_video_name(path)
    film = film_episode(agent, env, seed)
    write_video(path, film.frames, env.metadata.get("render_fps", 10))
    return film.success


def film_episode(agent: Any, env: gym.Env, seed: int | None) -> Film:
    """Play one episode and draw each of its steps.

    Raises ValueError for an env without render_mode="rgb_array".
    """
    if env.render_mode != "rgb_array":
        raise ValueError(
            f'env has render_mode={env.render_mode!r}, expected "rgb_array"; '
            'make it with gymnasium.make(..., render_mode="rgb_array")'
        )
    observation, _ = env.reset(seed=seed)
    imagination = _Imagination(agent)
    frames: list[np.ndarray] = []
    state, start = None, np.ones(1, bool)
    reached, over = 0, False
    while not over:
        action, state = agent.predict(
            _batch_of_one(observation), state=state, episode_start=start, deterministic=True
        )
        start = np.zeros(1, bool)
        imagination.update()
        panels = _panels(agent, observation) | imagination.panels()
        frames.append(_compose(_rendered(env), panels, f"step {len(frames)}", INK))
        observation, _, terminated, truncated, info = env.step(action[0])
        if info.get("is_success", False) and not reached:
            reached = len(frames)
        over = bool(terminated or truncated)
    panels = _panels(agent, observation) | imagination.panels()
    text, color = ("goal reached", GOOD) if reached else ("goal not reached", BAD)
    last = _compose(_rendered(env), panels, f"step {len(frames)}: {text}", color)
    distance = float(info.get("distance", math.nan))
    return Film(frames + [last] * HOLD, reached > 0, reached or len(frames), distance)


def check_video_name(path: str | Path) -> Path:
    """The path, or ValueError for a name that does not end in .mp4."""
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path} is no name of an mp4; give one that ends in .mp4")
    return path


def write_video(path: str | Path, frames: list[np.ndarray], fps: float) -> None:
    """Write frames, uint8 (h, w, 3) with even sides, as an mp4 (H.264); the file appears whole.

    Raises ValueError for a name that does not end in .mp4.
    """
    path = check_video_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    open_writer: Any = imageio.get_writer  # not all versions' hints know a format by its name
    writer = open_writer(
        temporary, format="FFMPEG", fps=fps, codec="libx264", macro_block_size=2, quality=7
    )
    with writer:
        for frame in frames:
            writer.append_data(frame)
    temporary.replace(path)


class _Imagination:
    """Follows the agent's last plan: which imagined frame belongs to the present step."""

    def __init__(self, agent: Any):
        self._agent = agent
        self._plan: Plan | None = None
        self._frames = np.zeros(0)
        self._end = -1
        self._steps = 0

    def update(self) -> None:
        """To be called after each `predict`."""
        plan = getattr(self._agent, "last_plan", None)
        self._steps += 1
        if plan is None or not getattr(self._agent.model, "can_decode", False):
            return
        self._plan, self._steps = plan, 0
        with torch.no_grad():
            first = Latent(*(part[0].to(self._agent.model.device) for part in plan.predicted))
            self._frames = self._agent.model.decode(first).cpu().numpy()
        arrival = getattr(getattr(self._agent, "objective", None), "arrival", None)
        if arrival is not None:
            self._end = int(arrival(plan.predicted, plan.goal)[0])

    def panels(self) -> dict[str, np.ndarray]:
        if self._plan is None:
            return {}
        horizon = len(self._frames)
        frameskip = self._plan.actions.shape[1] // horizon
        present = min(self._steps // frameskip, horizon - 1)
        return {
            "imagined: the plan's end": self._frames[self._end],
            "imagined: this model step's end": self._frames[present],
        }


def _panels(agent: Any, observation: Any) -> dict[str, np.ndarray]:
    """The pictures in the observation; none for an env without."""
    if not isinstance(observation, Mapping):
        return {}
    keys = getattr(agent, "keys", None)
    named = {
        "goal": getattr(keys, "goal_pixels", "goal_pixels"),
        "observation": getattr(keys, "pixels", "pixels"),
    }
    return {caption: observation[key] for caption, key in named.items() if key in observation}


def _compose(scene: np.ndarray, panels: dict[str, np.ndarray], text: str, color: Any) -> np.ndarray:
    """The scene on the left, up to four panels in two columns on its right, captions above."""
    columns = [_captioned(scene, SIZE, text, color, 0.6)]
    tiles = [_captioned(p, SIZE // 2 - CAPTION // 2, c, INK, 0.36) for c, p in panels.items()]
    for pair in (tiles[:2], tiles[2:]):
        if pair:
            column = np.full((SIZE + CAPTION, pair[0].shape[1], 3), 255, np.uint8)
            stacked = np.concatenate(pair)
            column[: len(stacked)] = stacked
            columns.append(column)
    return np.concatenate(columns, axis=1)


def _captioned(
    picture: np.ndarray, size: int, text: str, color: tuple[int, int, int], scale: float
) -> np.ndarray:
    """A picture of `size` px with a caption above it."""
    bar = np.full((CAPTION, size, 3), 255, np.uint8)
    cv2.putText(
        bar, text, (4, CAPTION - 10), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA
    )
    way = cv2.INTER_AREA if picture.shape[0] > size else cv2.INTER_NEAREST
    resized = cv2.resize(np.ascontiguousarray(picture), (size, size), interpolation=way)
    framed = cv2.rectangle(resized, (0, 0), (size - 1, size - 1), (200, 200, 200), 1)
    return np.concatenate([bar, framed])


def _rendered(env: gym.Env) -> np.ndarray:
    return np.asarray(env.render(), np.uint8)


def _batch_of_one(observation: Any) -> Any:
    if isinstance(observation, Mapping):
        return {key: np.asarray(value)[None] for key, value in observation.items()}
    return np.asarray(observation)[None]
