"""Acts out plans in the true simulator, many at once, from any of its states."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from ..env_spec import spec_of
from ..observations import ObservationKeys
from .dataset import TrajectoryDataset, evenly_chosen
from .processes import deaths_explained, processes

# A picture is another where more than this share of its numbers differ by more than so many of 255,
# a vector without a picture where a number of it differs by more than this share of its spread, and
# of its size.
LEVELS, ODD_SHARE, ODD_SPREAD, ROUNDING = 64, 0.002, 0.01, 1e-5


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
        env_id: a registered id, or the spec of an env, which knows the wrappers that it was made
            with.
        workers: processes; with 1 everything runs in this one.
        keys: which entries of an observation are the picture and the proprioception.
        env_kwargs: passed to `gymnasium.make`.
    """

    def __init__(
        self,
        env_id: str | EnvSpec,
        workers: int = 1,
        keys: ObservationKeys | None = None,
        **env_kwargs: Any,
    ):
        self._spec = spec_of(env_id)
        self._keys = keys or ObservationKeys()
        self._workers = workers
        self._own = _Environment(self._spec, env_kwargs)
        self._made = ExitStack()
        self._pool: ProcessPoolExecutor | None = None
        if workers > 1:
            pool = processes(workers, _of_this_worker, self._spec, env_kwargs)
            self._pool = self._made.enter_context(pool)

    @classmethod
    def of(
        cls,
        dataset: TrajectoryDataset,
        workers: int = 1,
        spec: EnvSpec | None = None,
        keys: ObservationKeys | None = None,
    ) -> Simulator:
        """The env that a dataset was collected with.

        spec: of the env, where it was collected with wrappers, of which a dataset knows the names
            at most. keys: where the dataset does not say which entries are what.

        Raises:
            ValueError: other wrappers, or another env.
        """
        known = dataset.metadata
        found = spec or gym.spec(known["env_id"])
        names = [wrapper.name for wrapper in found.additional_wrappers]
        expected = known.get("wrappers", names)  # what was recorded elsewhere does not say
        if (found.id, names) != (known["env_id"], expected):
            raise ValueError(
                f"{dataset.folder} was collected in {known['env_id']} with the wrappers "
                f"{', '.join(expected) or 'none'}, not in {found.id} with "
                f"{', '.join(names) or 'none'}; give the spec that it was collected with"
            )
        if keys is None and "keys" in known:
            keys = ObservationKeys(**known["keys"])
        return cls(found, workers, keys, **known["env_kwargs"])

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *error: Any) -> None:
        self._own.close()
        self._made.__exit__(*error)
        self._pool = None

    def close(self) -> None:
        """End the processes, and this one's environment."""
        self.__exit__(None, None, None)

    def play(
        self, start: np.ndarray, actions: np.ndarray, seeds: np.ndarray | None = None
    ) -> Frames:
        """Start in states (B, s) and take env actions (B, n, A): the n frames after each action.

        No end of an episode ends anything. seeds: (B,), what the env is reset with before it is put
        into the states, by which it draws what they do not tell, such as walls; 0 by default.

        Raises:
            ValueError: the environment does not tell its state.
            RuntimeError: a process died.
        """
        shares = np.array_split(np.arange(len(start)), self._workers)
        seeds = np.zeros(len(start), np.int64) if seeds is None else seeds
        tasks = [(self._keys, start[i], actions[i], seeds[i]) for i in shares if len(i)]
        if self._pool is not None:
            with deaths_explained():
                found = list(self._pool.map(_play_in_worker, *zip(*tasks, strict=True)))
        else:
            found = [self._own.play(*task) for task in tasks]
        return Frames(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def check(self, dataset: TrajectoryDataset, episodes: np.ndarray) -> None:
        """Raise ValueError unless the environment goes on from a state as it was recorded to, in a
        few of the episodes, by the picture or, where there is none, by the proprioception. One that
        draws walls at each reset does if they depend on the seed alone."""
        moving = np.asarray(episodes)[dataset.episodes[episodes, 2] > 1]
        chosen = evenly_chosen(moving, 8)[:8]
        if len(chosen) == 0:
            return
        told = dataset.array("proprio", chosen)
        near = ODD_SPREAD * told.std(0) + ROUNDING * np.abs(told).max(0) + 1e-6
        for index in chosen:
            episode = dataset.episode(int(index))
            if episode["state"].shape[1] == 0:
                raise ValueError(f"{dataset.folder} holds no states; {NEEDED}")
            middle = (len(episode["state"]) - 1) // 2
            start, action = (episode[key][middle : middle + 1] for key in ("state", "action"))
            seeds, after = dataset.reset_seeds([index]), middle + 1
            seen = self.play(start, action[:, None], seeds)
            odd = np.abs(seen.pixels[0, 0].astype(int) - episode["pixels"][after]) > LEVELS
            off = np.abs(seen.proprio[0, 0] - episode["proprio"][after])
            if odd.size and odd.mean() > ODD_SHARE:
                what = f"{odd.mean():.1%} of the picture is another"
            elif not odd.size and not (off <= near).all():
                what = f"the proprioception is off by {off.max():.3g}"
            else:
                continue
            raise ValueError(
                f"{self._spec.id} does not go on as episode {index} of {dataset.folder} was "
                f"recorded ({what}); its state and the seed of its reset must tell all that "
                "differs between episodes"
            )


NEEDED = (
    'the simulator of online finetuning must tell its state, as info["state"], and take it back by '
    'reset(options={"start": state})'
)


class _Environment:
    """One process's instance, made at first use, which plays one plan after the other."""

    def __init__(self, spec: EnvSpec, env_kwargs: dict[str, Any]):
        self._spec, self._env_kwargs = spec, env_kwargs
        self._env: gym.Env | None = None

    def play(
        self, keys: ObservationKeys, start: np.ndarray, actions: np.ndarray, seeds: np.ndarray
    ) -> Frames:
        if self._env is None:
            self._env = gym.make(
                self._spec, disable_env_checker=True, max_episode_steps=-1, **self._env_kwargs
            )
        env = self._env
        rows: dict[str, list[np.ndarray]] = {key: [] for key in Frames._fields}
        takes_goal = "goal" in getattr(env.unwrapped, "reset_options", ())
        for state, plan, seed in zip(start, actions, seeds, strict=True):
            options = {"start": state} | ({"goal": state} if takes_goal else {})
            env.reset(seed=int(seed), options=options)
            for action in plan:
                observation, _, _, _, info = env.step(action)
                if "state" not in info:
                    raise ValueError(f'{self._spec.id} has no info["state"]; {NEEDED}')
                picture, numbers = keys.frame(observation)
                rows["pixels"].append(picture)
                rows["proprio"].append(numbers)
                rows["state"].append(info["state"])
        shape = actions.shape[:2]
        return Frames(*(np.stack(row).reshape(*shape, *row[0].shape) for row in rows.values()))

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None


_worker: _Environment  # in a worker process


def _of_this_worker(spec: EnvSpec, env_kwargs: dict[str, Any]) -> None:
    global _worker
    _worker = _Environment(spec, env_kwargs)


def _play_in_worker(*task: Any) -> Frames:
    return _worker.play(*task)
