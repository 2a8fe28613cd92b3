"""Clips of the very episodes that were evaluated: what was done in them is recorded and done again.

recorder = EpisodeRecorder(each=2)
report = evaluate(agent, env_id, recorder=recorder)
clips = recorder.clips(agent, report)
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2 as imageio
import numpy as np
from torch import Tensor

from .report import Episode, EvaluationReport
from .types import Latent, Plan
from .video import Film, film_episode, write_video

logger = logging.getLogger(__name__)

Step = tuple[np.ndarray, Plan | None]
"""An env action (A,), and the plan of one row that was made before it, if one was."""


@dataclass(frozen=True)
class Clip:
    """A video of one evaluated episode.

    mp4: the file's bytes (H.264, yuv420p). poster: its first frame, a JPEG's bytes.
    size: width and height, px.
    """

    episode: Episode
    mp4: bytes
    poster: bytes
    size: tuple[int, int]


class EpisodeRecorder:
    """Records what an agent does while `evaluate` plays, for `each` of the successes and as many
    of the failures: those with the lowest seeds.

    An agent's actions differ a little with the number of envs that it decides for at once, and a
    random agent's from call to call. Therefore the actions are kept, and not just the seeds; the
    pictures are drawn afterwards, so that recording takes next to no time.

    Raises ValueError for a negative `each`.
    """

    def __init__(self, each: int = 2):
        if each < 0:
            raise ValueError(f"each must be at least 0, got {each}")
        self.each = each
        self._playing: dict[int, list[Step]] = {}
        self._kept: dict[bool, list[tuple[Episode, list[Step]]]] = {True: [], False: []}

    def record(self, agent: Any, seeds: list[int | None], actions: np.ndarray, state: Any) -> None:
        """One decision, after the agent's `predict`.

        seeds: of the episodes in the batch's rows; None for a row that is idle.
        actions: (B, A). state: what `predict` returned.
        """
        if not self.each:
            return
        plans = row_plans(agent, state)
        for row, seed in enumerate(seeds):
            if seed is not None:
                step = (np.array(actions[row]), plans.get(row))
                self._playing.setdefault(seed, []).append(step)

    def end(self, episode: Episode) -> None:
        """The episode is over."""
        if not self.each:
            return
        steps = self._playing.pop(episode.seed)
        kept = [*self._kept[episode.success], (episode, steps)]
        self._kept[episode.success] = sorted(kept, key=lambda pair: pair[0].seed)[: self.each]

    def clips(self, agent: Any, report: EvaluationReport) -> list[Clip]:
        """Successes first, each by seed.

        agent: the one that was evaluated; its decoder draws what it imagined.
        An episode that does not come out the same is left out, and said so in the log: the env
        does more than its seed and the actions tell.
        """
        kept = [*self._kept[True], *self._kept[False]]
        agents = ((_Replay(agent, steps), episode) for episode, steps in kept)
        played = _play(report, agents, logging.WARNING)
        return [clip for clip in played if clip is not None]


def clips_again(agent: Any, report: EvaluationReport, each: int = 2) -> list[Clip]:
    """Clips for a report that was read from a file: episodes are played again, by seed, and kept
    where they come out the same; twice as many as are wanted are tried.

    agent: made as the evaluated one was. each: successes, and failures, that are wanted.
    """
    clips: list[Clip] = []
    for outcome in (True, False):
        chosen = [e for e in report.episodes if e.success is outcome][: 2 * each]
        found: list[Clip] = []
        for clip in _play(report, ((agent, episode) for episode in chosen), logging.INFO):
            if clip is not None:
                found.append(clip)
            if len(found) == each:
                break
        clips += found
    return clips


def row_plans(agent: Any, state: Any) -> dict[int, Plan]:
    """Row of the batch → the plan that the agent has just made for it; rows that were handed what
    was planned before are missing, and so are all of an agent that does not plan."""
    plan = getattr(agent, "last_plan", None)
    position = getattr(state, "position", None)
    if plan is None or position is None:
        return {}
    # Whose queue was refilled has just handed out its first action.
    return {int(row): _one_row(plan, i) for i, row in enumerate(np.flatnonzero(position == 1))}


def _one_row(plan: Plan, index: int) -> Plan:
    """A plan of one row. Copied, so that it does not keep the whole batch in memory."""

    def take(part: Tensor) -> Tensor:
        return part[index : index + 1].to("cpu", copy=True)

    return replace(
        plan,
        actions=plan.actions[index : index + 1].copy(),
        model_actions=take(plan.model_actions),
        rollout=partial(Latent, *map(take, plan.predicted)),
        goal=Latent(*map(take, plan.goal)),
        cost=take(plan.cost),
        cost_trace=plan.cost_trace[:, index : index + 1].to("cpu", copy=True),
    )


class _Replay:
    """An agent that does what another one did."""

    def __init__(self, agent: Any, steps: list[Step]):
        self.model = getattr(agent, "model", None)
        self.keys = getattr(agent, "keys", None)
        self.objective = getattr(agent, "objective", None)
        self.last_plan: Plan | None = None
        self._action = steps[0][0]
        self._steps = iter(steps)

    def predict(
        self, observation: Any, state: Any, episode_start: np.ndarray, deterministic: bool
    ) -> tuple[np.ndarray, None]:
        # An env that goes on for longer than it did then is given the last action: the outcome
        # shows that it is not the same.
        self._action, self.last_plan = next(self._steps, (self._action, None))
        return self._action[None], None


def _play(
    report: EvaluationReport, agents: Iterable[tuple[Any, Episode]], level: int
) -> Iterator[Clip | None]:
    """Each agent plays its episode; None where that comes out otherwise than in the report, and a
    line in the log."""
    made = {**report.env_kwargs, "render_mode": "rgb_array"}
    with gym.make(report.env_id, **made) as env:
        for agent, episode in agents:
            film = film_episode(agent, env, episode.seed)
            if _same(film, episode):
                yield _clip(film, episode, env.metadata.get("render_fps", 10))
            else:
                logger.log(
                    level,
                    "episode %d of %s on %s comes out otherwise when it is played again: success "
                    "%s, %d steps, expected %s, %d; it is not shown",
                    episode.seed, report.agent, report.env_id, film.success, film.steps,
                    episode.success, episode.steps,
                )  # fmt: skip
                yield None


def _same(film: Film, episode: Episode) -> bool:
    """Whether it is the same episode, but for rounding."""
    return (film.success, film.steps) == (episode.success, episode.steps) and bool(
        np.isclose(film.distance, episode.distance, rtol=0.01, equal_nan=True)
    )


def _clip(film: Film, episode: Episode, fps: float) -> Clip:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mp4"
        write_video(file, film.frames, fps)
        mp4 = file.read_bytes()
    first = film.frames[0]
    height, width, _ = first.shape
    encode: Any = imageio.imwrite  # not all versions' hints know "<bytes>"
    return Clip(episode, mp4, encode("<bytes>", first, format="JPEG"), (width, height))
