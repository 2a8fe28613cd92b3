"""Acts out plans in the true simulator, many at once, from any of its states."""

from __future__ import annotations

import multiprocessing
from multiprocessing.pool import Pool
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from .dataset import TrajectoryDataset, evenly_chosen

# A picture is another where more than this share of its numbers differ by more than so many of 255.
LEVELS, ODD_SHARE = 64, 0.002


class Frames(NamedTuple):
    """What was seen: pixels (B, n, S, S, 3) uint8, proprio (B, n, p) float32, state (B, n, s)."""

    pixels: np.ndarray
    proprio: np.ndarray
    state: np.ndarray


class Simulator:
    """An environment that restores a state by `reset(options={"start": state})` and tells its
    state in `info["state"]`, as all of `gbp/…` do; plays batches in `workers` processes.

    Use it as a context manager, or call `close`.

    Args:
        env_id: a registered id.
        workers: processes; with 1 everything runs in this one.
        env_kwargs: passed to `gymnasium.make`.
    """

    def __init__(self, env_id: str, workers: int = 1, **env_kwargs: Any):
        self._spec = gym.spec(env_id)
        self._env_kwargs = env_kwargs
        self._workers = workers
        self._pool: Pool | None = None
        if workers > 1:
            self._pool = multiprocessing.get_context("spawn").Pool(workers)

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool.join()
            self._pool = None

    def play(self, start: np.ndarray, actions: np.ndarray) -> Frames:
        """Start in states (B, s) and take env actions (B, n, A): the n frames after each action.

        Reaching a goal ends nothing.

        Raises:
            ValueError: the environment does not tell its state.
        """
        shares = np.array_split(np.arange(len(start)), self._workers)
        tasks = [(self._spec, self._env_kwargs, start[i], actions[i]) for i in shares if len(i)]
        found = self._pool.starmap(_play, tasks) if self._pool else [_play(*task) for task in tasks]
        return Frames(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def check(self, dataset: TrajectoryDataset, episodes: np.ndarray) -> None:
        """Raise ValueError unless the environment goes on from a state as it was recorded to, in a
        few of the episodes; one that draws walls at each reset, of which its state says nothing,
        does not."""
        moving = np.asarray(episodes)[dataset.episodes[episodes, 2] > 1]
        for index in evenly_chosen(moving, 8)[:8]:
            episode = dataset.episode(int(index))
            middle = (len(episode["state"]) - 1) // 2
            start, action = (episode[key][middle : middle + 1] for key in ("state", "action"))
            seen = self.play(start, action[:, None]).pixels[0, 0].astype(int)
            odd = np.abs(seen - episode["pixels"][middle + 1]) > LEVELS
            if odd.mean() > ODD_SHARE:
                raise ValueError(
                    f"{self._spec.id} does not go on as episode {index} of {dataset.folder} was "
                    f"recorded ({odd.mean():.1%} of the picture is another); its state must tell "
                    "all that differs between episodes"
                )


def _play(
    spec: gym.envs.registration.EnvSpec,
    env_kwargs: dict[str, Any],
    start: np.ndarray,
    actions: np.ndarray,
) -> Frames:
    env = _environment(spec, tuple(sorted(env_kwargs.items())))
    rows: dict[str, list[np.ndarray]] = {key: [] for key in Frames._fields}
    takes_goal = "goal" in getattr(env.unwrapped, "reset_options", ())
    for state, plan in zip(start, actions, strict=True):
        options = {"start": state} | ({"goal": state} if takes_goal else {})
        env.reset(seed=0, options=options)
        for action in plan:
            observation, _, _, _, info = env.step(action)
            if "state" not in info:
                raise ValueError(
                    f'{spec.id} has no info["state"]; the simulator of online finetuning must '
                    'tell its state and take it back by reset(options={"start": state})'
                )
            rows["pixels"].append(observation["pixels"])
            rows["proprio"].append(observation["proprio"])
            rows["state"].append(info["state"])
    shape = actions.shape[:2]
    return Frames(*(np.stack(row).reshape(*shape, *row[0].shape) for row in rows.values()))


_ENVIRONMENTS: dict[Any, gym.Env] = {}


def _environment(
    spec: gym.envs.registration.EnvSpec, env_kwargs: tuple[tuple[str, Any], ...]
) -> gym.Env:
    """The process's own instance, made at first use."""
    key = (spec.id, env_kwargs)
    if key not in _ENVIRONMENTS:
        _ENVIRONMENTS[key] = gym.make(
            spec, disable_env_checker=True, max_episode_steps=-1, **dict(env_kwargs)
        )
    return _ENVIRONMENTS[key]
