"""Runs an environment's behaviour policy in parallel and writes a trajectory dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from ..env_spec import own_kwargs, spec_of
from ..observations import ObservationKeys
from .dataset import (
    ARRAYS,
    FORMAT_VERSION,
    TrajectoryDataset,
    part_name,
    read_metadata,
    write_part,
)
from .processes import deaths_explained, processes

EVALUATION_SEEDS_BEGIN = 1_000_000_000
"""Seeds from here on are for evaluation alone; `collect` refuses them."""


@dataclass(frozen=True)
class _Part:
    """One worker's task."""

    spec: gym.envs.registration.EnvSpec
    env_kwargs: dict[str, Any]
    seeds: range
    steps: int
    random_share: float
    folder: Path
    keys: ObservationKeys


def collect(
    env_id: str | gym.Env | gym.envs.registration.EnvSpec,
    episodes: int,
    seed: int,
    folder: str | Path,
    *,
    steps: int = 100,
    episodes_per_part: int = 50,
    workers: int | None = None,
    progress: bool = True,
    keys: ObservationKeys | None = None,
    random_share: float = 0.0,
    **env_kwargs: Any,
) -> TrajectoryDataset:
    """Write `episodes` episodes of `steps` environment steps each.

    The env's own behaviour policy (`env.unwrapped.behavior_action()`) acts where there is one,
    uniformly random actions elsewhere. Episode i is reset with `seed + i`; goals are ignored, and
    an episode ends early on truncation, or on termination unless `info["is_success"]` says that it
    came of reaching a goal. Parts are written to a temporary name and renamed: calling again after
    a kill makes the missing ones.

    Args:
        env_id: a registered id, or an env or its spec, `env.spec`, which knows the wrappers that it
            was made with; envs like it are made.
        episodes, steps: how much, both ≥ 1.
        seed: first reset seed; `seed + episodes` must stay below EVALUATION_SEEDS_BEGIN.
        folder: where to; made if need be.
        episodes_per_part: what a killed collection loses at most, per worker.
        workers: processes; the number of processors by default. A script that asks for several has
            to do so under `if __name__ == "__main__":`, as they import it; 1 needs none.
        keys: which entries of an observation are the picture and the proprioception. An
            observation that is an array is proprioception; so one without a picture gives data for
            models of the family "state".
        random_share: share of the steps, 0…1, at which the behaviour policy's action gives way to a
            uniformly random one. A planner asks about actions that a policy which knows what it
            does never takes, such as a push beside the object.
        env_kwargs: JSON values, passed to `gymnasium.make`, e.g. `image_size=64`.

    Raises:
        ValueError: bad counts, seeds or share, the folder holds a collection with other settings,
            or an environment that no model learns: its actions are no Box of floats (A,), its
            pictures not (S, S, 3) uint8, its proprioception not (p,), or a number is not finite.
        RuntimeError: a process died.
        TypeError: an env that was not made by `gymnasium.make`.
    """
    _check(episodes, seed, steps, episodes_per_part, random_share)
    folder = Path(folder)
    spec = spec_of(env_id)
    env_kwargs = {**own_kwargs(spec), **env_kwargs}
    keys = keys or ObservationKeys()
    metadata: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "env_id": spec.id,
        "env_kwargs": env_kwargs,
        "seed": seed,
        "episodes": episodes,
        "steps": steps,
        "random_share": random_share,
        "parts": -(-episodes // episodes_per_part),
        "episodes_per_part": episodes_per_part,
        "keys": asdict(keys),
        "wrappers": [wrapper.name for wrapper in spec.additional_wrappers],
    }
    _write_metadata(folder, metadata, spec, keys)
    tasks = [part for part in _parts(folder, metadata, spec, keys) if not part.folder.exists()]
    missing = sum(len(task.seeds) for task in tasks)
    with tqdm(
        total=episodes,
        initial=episodes - missing,
        desc=f"collect {spec.id}",
        unit="episode",
        disable=not progress,
    ) as bar:
        for count in _run(tasks, workers or os.cpu_count() or 1):
            bar.update(count)
    return TrajectoryDataset(folder)


def _check(
    episodes: int, seed: int, steps: int, episodes_per_part: int, random_share: float
) -> None:
    if episodes < 1 or steps < 1 or episodes_per_part < 1:
        raise ValueError(
            "episodes, steps and episodes_per_part must be at least 1, "
            f"got {episodes}, {steps}, {episodes_per_part}"
        )
    if seed < 0 or seed + episodes > EVALUATION_SEEDS_BEGIN:
        raise ValueError(
            f"seeds {seed} to {seed + episodes} must lie in 0…{EVALUATION_SEEDS_BEGIN}; "
            "those above are kept for evaluation"
        )
    if not 0 <= random_share <= 1:
        raise ValueError(f"random_share must lie in 0…1, got {random_share}")


def _parts(
    folder: Path,
    metadata: dict[str, Any],
    spec: gym.envs.registration.EnvSpec,
    keys: ObservationKeys,
) -> Iterator[_Part]:
    """All parts of the collection that `metadata` describes."""
    seeds = range(metadata["seed"], metadata["seed"] + metadata["episodes"])
    size = metadata["episodes_per_part"]
    for number in range(metadata["parts"]):
        part = seeds[number * size : (number + 1) * size]
        path = folder / part_name(number)
        share = metadata["random_share"]
        yield _Part(spec, metadata["env_kwargs"], part, metadata["steps"], share, path, keys)


def _run(tasks: list[_Part], workers: int) -> Iterator[int]:
    if workers == 1 or len(tasks) <= 1:
        yield from map(_collect_part, tasks)
        return
    with processes(min(workers, len(tasks))) as pool, deaths_explained():
        for part in as_completed([pool.submit(_collect_part, task) for task in tasks]):
            yield part.result()


def _collect_part(task: _Part) -> int:
    """Write one part and return its number of episodes."""
    env = gym.make(task.spec, disable_env_checker=True, max_episode_steps=-1, **task.env_kwargs)
    rows: dict[str, list[Any]] = {key: [] for key in ARRAYS}
    for seed in task.seeds:
        length = 0
        for row in _episode(env, seed, task):
            length += 1
            for key, value in row.items():
                rows[key].append(value)
        rows["length"].append(length)
    env.close()
    write_part(task.folder, rows)
    return len(task.seeds)


def _episode(env: gym.Env, seed: int, task: _Part) -> Iterator[dict[str, Any]]:
    """Rows of one episode, one per frame."""
    simulator: Any = env.unwrapped
    behavior = getattr(simulator, "behavior_action", None)
    observation, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    chance = np.random.default_rng(seed)
    over = False
    for step in range(task.steps + 1):
        last = over or step == task.steps
        action = behavior() if behavior else env.action_space.sample()
        if chance.random() < task.random_share:
            action = env.action_space.sample()
        picture, numbers = task.keys.frame(observation)
        if not np.isfinite(numbers).all():
            raise ValueError(f"seed {seed}, step {step}: the observation {numbers} is not finite")
        yield {
            "pixels": picture,
            "proprio": numbers,
            "action": np.zeros_like(action) if last else action,
            "state": info.get("state", np.zeros(0)),
        }
        if last:
            return
        observation, _, terminated, truncated, info = env.step(action)
        # Reaching a goal that nobody aimed at does not end a goal-reaching episode.
        over = truncated or (terminated and not info.get("is_success", False))


def _write_metadata(
    folder: Path,
    metadata: dict[str, Any],
    spec: gym.envs.registration.EnvSpec,
    keys: ObservationKeys,
) -> None:
    """Write metadata.json, or check that the one that is there says the same."""
    try:
        metadata = json.loads(json.dumps(metadata))  # where a tuple is a list
    except TypeError as error:
        raise ValueError(f"env_kwargs are no JSON values: {error}") from error
    if (folder / "metadata.json").exists():
        present = {"random_share": 0.0, **read_metadata(folder)}
        for name in ("keys", "wrappers"):  # of which earlier collections say nothing
            present.setdefault(name, metadata[name])
        for key, value in metadata.items():
            if present.get(key) != value:
                raise ValueError(
                    f"{folder} holds a collection with {key}={present.get(key)!r}, asked for "
                    f"{value!r}; use another folder"
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with gym.make(spec, disable_env_checker=True, **metadata["env_kwargs"]) as env:
        simulator, actions = env.unwrapped, _box(spec.id, env.action_space)
        _check_frame(spec.id, *keys.frame(env.reset(seed=metadata["seed"])[0]))
        about = {
            "action_low": actions.low.tolist(),
            "action_high": actions.high.tolist(),
            "state_names": list(getattr(simulator, "state_names", ())),
            "state_periods": dict(getattr(simulator, "state_periods", {})),
            "mirror_symmetry": dict(getattr(simulator, "mirror_symmetry", {})),
        }
    about["versions"] = {"gymnasium": gym.__version__, "numpy": np.__version__}
    temporary = folder / "metadata.json.tmp"
    temporary.write_text(json.dumps(metadata | about, indent=2) + "\n")
    temporary.rename(folder / "metadata.json")


def _box(env_id: str, actions: gym.Space) -> gym.spaces.Box:
    """The action space, unless models are not made for it."""
    floats = isinstance(actions, gym.spaces.Box) and np.issubdtype(actions.dtype, np.floating)
    if not isinstance(actions, gym.spaces.Box) or not floats or len(actions.shape) != 1:
        raise ValueError(f"{env_id} has action space {actions}, expected a Box of floats (A,)")
    return actions


def _check_frame(env_id: str, picture: np.ndarray, numbers: np.ndarray) -> None:
    """Raise ValueError unless models are made for such observations."""
    square = picture.ndim == 3 and picture.shape == (len(picture), len(picture), 3)
    if picture.size and not (square and picture.dtype == np.uint8):
        raise ValueError(
            f"{env_id} has pictures {picture.shape} of {picture.dtype}, expected (S, S, 3) uint8"
        )
    if numbers.ndim != 1:
        raise ValueError(
            f"{env_id} has proprioception {numbers.shape}, expected a vector (p,); a picture comes "
            "beside one in a dict (gymnasium.wrappers.AddRenderObservation, ResizePixels), and "
            "gymnasium.wrappers.FlattenObservation makes a vector of other things"
        )
