"""One protocol for every agent: the same held-out episodes, played in lockstep, and a report."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor
from tqdm import tqdm

from ._version import __version__
from .clips import EpisodeRecorder
from .data import EVALUATION_SEEDS_BEGIN
from .env_spec import spec_of
from .report import Episode, EvaluationReport, Planning, machine
from .video import check_video_name, record_episodes

VIDEO_EPISODES = 4


class Agent(Protocol):
    """Anything with Stable-Baselines3's `predict`."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, Any]:
        """Actions for a batch of observations, and the state to pass in next time."""


def evaluate(
    agent: Agent,
    env_id: str | EnvSpec | gym.Env,
    episodes: int = 200,
    seed: int = 0,
    num_envs: int = 50,
    video: str | Path | None = None,
    progress: bool = True,
    recorder: EpisodeRecorder | None = None,
    **env_kwargs: Any,
) -> EvaluationReport:
    """Play `episodes` held-out episodes and report.

    Episode i is reset with EVALUATION_SEEDS_BEGIN + seed + i: seeds that data collection refuses,
    and the same for every agent. An episode is a success when `info["is_success"]` was true at any
    step of it.

    Args:
        agent: ours, a Stable-Baselines3 model, `RandomAgent`, or any other with `predict`.
        env_id: a registered id, or an env or its spec, `env.spec`, which knows the wrappers that it
            was made with; envs like it are made, and the report names the id alone.
        num_envs: envs played at once, in one process; the agent decides for all of them in one
            batch. Milliseconds per decision depend on it.
        video: an mp4 file of the first few episodes, played again for it after the figures are
            taken.
        recorder: keeps what was done in a few successes and failures, for clips of them.
        env_kwargs: passed to `gymnasium.make`, e.g. `max_episode_steps=25`.

    Raises:
        ValueError: bad counts, the agent's model is for another env, or a recorder for an env of
            wrappers that its id does not have.
    """
    spec = spec_of(env_id)
    if video is not None:
        check_video_name(video)
    _check(agent, spec.id, episodes, seed, num_envs)
    if recorder is not None and spec.additional_wrappers:
        raise ValueError(
            f"clips are played in {spec.id} without the wrappers of the spec; register the wrapped "
            "env under an id of its own, or give no recorder"
        )
    begun = time.perf_counter()
    seeds = range(EVALUATION_SEEDS_BEGIN + seed, EVALUATION_SEEDS_BEGIN + seed + episodes)
    meter = _Meter(agent)
    with ExitStack() as stack:
        bar = tqdm(total=episodes, desc=spec.id, unit="episode", disable=not progress)
        stack.enter_context(bar)
        envs = [gym.make(spec, **env_kwargs) for _ in range(min(num_envs, episodes))]
        rows = [_Row(stack.enter_context(env)) for env in envs]
        played = _play(meter, rows, iter(seeds), bar, recorder or EpisodeRecorder(0))
    seconds = time.perf_counter() - begun
    if video is not None:
        record_episodes(agent, spec, seeds[:VIDEO_EPISODES], video, **env_kwargs)
    settings = getattr(agent, "settings", None)
    return EvaluationReport(
        agent=type(agent).__name__,
        env_id=spec.id,
        env_kwargs=env_kwargs,
        seed=seed,
        num_envs=len(rows),
        episodes=sorted(played, key=lambda episode: episode.seed),
        planning=meter.summary(),
        env_steps_per_second=sum(r.stepped for r in rows) / sum(r.seconds for r in rows),
        seconds=seconds,
        settings=settings() if callable(settings) else {},
        machine=machine(),
        versions=_versions(),
    )


class _Row:
    """One env and the episode that it is in."""

    def __init__(self, env: gym.Env):
        self.env = env
        self.seconds, self.stepped = 0.0, 0  # of all its episodes
        self.over = True

    def reset(self, seed: int) -> None:
        begun = time.perf_counter()
        self.observation, info = self.env.reset(seed=seed)
        self.seconds += time.perf_counter() - begun
        self.seed = seed
        self.steps, self.reached = 0, 0
        self.total = 0.0
        self.distance = float(info.get("distance", math.nan))
        self.over = False

    def step(self, action: np.ndarray) -> None:
        begun = time.perf_counter()
        self.observation, reward, terminated, truncated, info = self.env.step(action)
        self.seconds += time.perf_counter() - begun
        self.steps += 1
        self.stepped += 1
        self.total += float(reward)
        self.distance = float(info.get("distance", math.nan))
        if info.get("is_success", False) and not self.reached:
            self.reached = self.steps
        self.over = bool(terminated or truncated)

    def episode(self) -> Episode:
        success = self.reached > 0
        steps = self.reached if success else self.steps
        return Episode(self.seed, success, steps, self.total, self.distance)


class _Meter:
    """Calls the agent and keeps what its decisions cost."""

    def __init__(self, agent: Agent):
        self.agent = agent
        # Decisions of one call: rows, milliseconds of each, roll-outs and gradient steps of each.
        self._calls: list[tuple[int, float, float, float]] = []

    def predict(self, observation: Any, state: Any, starts: np.ndarray) -> tuple[np.ndarray, Any]:
        begun = time.perf_counter()
        action, state = self.agent.predict(
            observation, state=state, episode_start=starts, deterministic=True
        )
        milliseconds = 1000 * (time.perf_counter() - begun)
        if not hasattr(self.agent, "last_plan"):
            self._calls.append((len(starts), milliseconds / len(starts), math.nan, math.nan))
            return action, state
        plan = self.agent.last_plan
        if plan is not None:
            count = len(plan.actions)
            cost = (plan.evaluations, plan.gradient_steps)
            self._calls.append((count, milliseconds / count, *cost))
        return action, state

    def summary(self) -> Planning:
        rows, milliseconds, evaluations, gradient_steps = np.array(self._calls, float).T
        each = np.repeat(milliseconds, rows.astype(int))
        return Planning(
            decisions=len(each),
            median_ms=float(np.median(each)),
            p95_ms=float(np.percentile(each, 95)),
            batch_size=float(np.median(rows)),
            evaluations=float(np.average(evaluations, weights=rows)),
            gradient_steps=float(np.average(gradient_steps, weights=rows)),
        )


def _play(
    meter: _Meter, rows: list[_Row], seeds: Iterator[int], bar: tqdm, recorder: EpisodeRecorder
) -> list[Episode]:
    """Play all seeds, one step of every row at a time."""
    for row in rows:
        row.reset(next(seeds))
    played: list[Episode] = []
    starts = np.ones(len(rows), bool)
    state = None
    while rows:
        action, state = meter.predict(_stack([row.observation for row in rows]), state, starts)
        starts = np.zeros(len(rows), bool)
        seeds_now = [None if row.over else row.seed for row in rows]
        recorder.record(meter.agent, seeds_now, action, state)
        for index, row in enumerate(rows):
            if row.over:
                continue
            row.step(action[index])
            if not row.over:
                continue
            played.append(row.episode())
            recorder.end(played[-1])
            bar.update()
            bar.set_postfix_str(f"success {np.mean([e.success for e in played]):.0%}")
            seed = next(seeds, None)
            if seed is not None:
                row.reset(seed)
                starts[index] = True
        kept = np.array([index for index, row in enumerate(rows) if not row.over], int)
        # A row that has run out of seeds leaves the batch. Only a state of a kind that is not
        # known to be cut keeps it there, idle, until the last one is through.
        array = type(state) in (np.ndarray, Tensor)  # whose `take` does something else
        droppable = state is None or (hasattr(state, "take") and not array)
        if len(kept) < len(rows) and (droppable or not len(kept)):
            rows, starts = [rows[i] for i in kept], starts[kept]
            state = state.take(kept) if state is not None and len(kept) else None
    return played


def _stack(observations: list[Any]) -> Any:
    """Observations of single envs as one batch."""
    if isinstance(observations[0], dict):
        return {key: np.stack([o[key] for o in observations]) for key in observations[0]}
    return np.stack(observations)


def _check(agent: Agent, env_id: str, episodes: int, seed: int, num_envs: int) -> None:
    if episodes < 1 or num_envs < 1 or seed < 0:
        raise ValueError(
            "episodes and num_envs must be at least 1 and seed at least 0, "
            f"got episodes={episodes}, num_envs={num_envs}, seed={seed}"
        )
    trained_for = getattr(getattr(getattr(agent, "model", None), "config", None), "env_id", env_id)
    if trained_for != env_id:
        raise ValueError(
            f"the agent's model was trained for {trained_for}, got env {env_id}; "
            "evaluate it there, or load a model of this env"
        )


def _versions() -> dict[str, str]:
    return {
        "gbp_agent": __version__,
        "gymnasium": gym.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
