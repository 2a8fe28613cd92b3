"""Trajectory datasets: a folder of parts, each a set of memory-mapped arrays.

FOLDER/metadata.json          env id and options, seeds, versions, what is in the arrays
FOLDER/part-00000/pixels.npy  (n, S, S, 3) uint8   frames of all episodes, end to end
                  proprio.npy (n, p) float32       env units
                  action.npy  (n, A) float32       env units, taken after the frame of the same
                                                   row; the row of an episode's last frame is 0
                  state.npy   (n, s) float64       for probes and simulators, never for a model
                  length.npy  (episodes,) int64    frames per episode
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ARRAYS = ("pixels", "proprio", "action", "state", "length")
FORMAT_VERSION = 1


class TrajectoryDataset:
    """Reads a dataset folder; nothing is loaded until it is asked for.

    Args:
        folder: what `collect` wrote.

    Raises:
        FileNotFoundError: no metadata there, or a part or an array of it is missing.
        ValueError: the metadata is of another format, or an array does not fit.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.metadata = read_metadata(self.folder)
        self._parts: list[dict[str, np.ndarray]] = []
        for number in range(self.metadata["parts"]):
            self._parts.append(_open_part(self.folder / part_name(number)))
        # One row per episode: part, first frame in the part, frames.
        rows = []
        for number, part in enumerate(self._parts):
            begin = np.concatenate([[0], np.cumsum(part["length"])])
            for key in ARRAYS[:-1]:
                if begin[-1] != len(part[key]):
                    raise ValueError(
                        f"{self.folder / part_name(number) / key}.npy holds {len(part[key])} "
                        f"frames, length.npy says {begin[-1]}; delete the part and run the same "
                        "collect() again"
                    )
            rows += [(number, b, n) for b, n in zip(begin, part["length"], strict=False)]
        self.episodes = np.array(rows, dtype=np.int64).reshape(-1, 3)

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    @property
    def frames(self) -> int:
        """Number of frames in all episodes."""
        return int(self.episodes[:, 2].sum())

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """Arrays of one episode, without its `length`: pixels (n, S, S, 3), proprio, action, state
        (views into the files)."""
        number, begin, length = self.episodes[index]
        part = self._parts[number]
        return {key: part[key][begin : begin + length] for key in ARRAYS[:-1]}

    def array(self, key: str, episodes: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """One array of the given episodes (all by default), end to end, in memory."""
        chosen = range(len(self)) if episodes is None else episodes
        return np.concatenate([self.episode(int(i))[key] for i in chosen])

    def taken_actions(self, episodes: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """The env actions (n, A) of the given episodes (all by default), end to end, without the
        rows of last frames, after which none was taken."""
        chosen = range(len(self)) if episodes is None else episodes
        return np.concatenate([self.episode(int(i))["action"][:-1] for i in chosen])

    def reset_seeds(self, episodes: Sequence[int] | np.ndarray) -> np.ndarray:
        """What the env was reset with at the beginning of these episodes (B,), as `collect` does;
        0 where a dataset does not say."""
        first = self.metadata.get("seed")
        return np.zeros(len(episodes), np.int64) if first is None else first + np.asarray(episodes)

    def split(self, held_out: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
        """Episode indices (training, held out); the last ones are held out, at least one."""
        if len(self) < 2:
            raise ValueError(f"{self.folder} has {len(self)} episode(s); a split needs at least 2")
        count = max(1, round(held_out * len(self)))
        return np.arange(len(self) - count), np.arange(len(self) - count, len(self))

    def windows(
        self, frames: int, frameskip: int, episodes: Sequence[int] | np.ndarray | None = None
    ) -> Windows:
        """All windows of `frames` frames, `frameskip` environment steps apart, at every offset."""
        return Windows(self, frames, frameskip, episodes)


def evenly_chosen(episodes: np.ndarray, count: int) -> np.ndarray:
    """About `count` of the episodes, evenly; all where they are fewer."""
    return episodes[:: max(1, len(episodes) // count)]


class Windows(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Windows (frames, proprioception, actions, state) cut from episodes, at every offset.

    An item is a dict of tensors, n the number of frames:
        pixels  (n, S, S, 3) uint8
        proprio (n, p) float32
        action  (n-1, F, A) float32, the environment actions between two frames
        state   (n, s) float64

    Raises:
        ValueError: no episode is long enough for a window.
    """

    def __init__(
        self,
        dataset: TrajectoryDataset,
        frames: int,
        frameskip: int,
        episodes: Sequence[int] | np.ndarray | None = None,
    ):
        if frames < 1 or frameskip < 1:
            raise ValueError(f"frames and frameskip must be ≥ 1, got {frames} and {frameskip}")
        self._dataset = dataset
        self._frames = frames
        self._frameskip = frameskip
        chosen = np.arange(len(dataset)) if episodes is None else np.asarray(episodes)
        self._chosen, self._rows = chosen, dataset.episodes[chosen]
        counts = np.maximum(self._rows[:, 2] - (frames - 1) * frameskip, 0)
        self._ends = np.cumsum(counts)
        if not len(self._ends) or self._ends[-1] == 0:
            raise ValueError(
                f"no episode of {dataset.folder} has the {(frames - 1) * frameskip + 1} frames "
                f"that a window of {frames} frames at frameskip {frameskip} spans; "
                "collect longer episodes"
            )

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: value[0] for key, value in self.batch([index]).items()}

    def reset_seeds(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Those (B,) of the episodes that the windows with these indices are cut from."""
        rows = np.searchsorted(self._ends, indices, side="right")
        return self._dataset.reset_seeds(self._chosen[rows])

    def batch(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """The windows with these indices, stacked: each tensor gets a leading batch dimension."""
        skip, span = self._frameskip, (self._frames - 1) * self._frameskip
        found: dict[str, list[np.ndarray]] = {k: [] for k in ("pixels", "proprio", "state")}
        actions = []
        for index in indices:
            row = int(np.searchsorted(self._ends, index, side="right"))
            number, begin, _ = self._rows[row]
            first = begin + index - (self._ends[row - 1] if row else 0)
            part = self._dataset._parts[number]
            for key, values in found.items():
                values.append(part[key][first : first + span + 1 : skip])
            actions.append(part["action"][first : first + span])
        batch = {key: torch.from_numpy(np.stack(values)) for key, values in found.items()}
        action = torch.from_numpy(np.stack(actions))
        batch["action"] = action.unflatten(1, (self._frames - 1, skip))
        return batch

    def shuffled(
        self, batch_size: int, seed: int, first_step: int = 0
    ) -> Iterator[dict[str, Tensor]]:
        """Batches without end, a new permutation each epoch, prefetched by one thread.

        The batch of step k depends on `seed` and k alone, so that a resumed run
        (`first_step=k`) sees what an uninterrupted one would have seen.
        """
        per_epoch = max(1, len(self) // batch_size)

        def load(step: int, order: np.ndarray) -> dict[str, Tensor]:
            offset = step % per_epoch * batch_size
            return self.batch(order[offset : offset + batch_size])

        with ThreadPoolExecutor(1) as pool:
            pending = None
            order: np.ndarray = np.empty(0, np.int64)
            epoch, step = -1, first_step
            while True:
                if step // per_epoch != epoch:
                    epoch = step // per_epoch
                    order = np.random.default_rng([seed, epoch]).permutation(len(self))
                following = pool.submit(load, step, order)
                if pending is not None:
                    yield pending.result()
                pending, step = following, step + 1


def write_part(folder: Path, arrays: Mapping[str, Any]) -> None:
    """Write the arrays of a part, by their names in ARRAYS; the folder appears once it is whole."""
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for key, values in arrays.items():
        np.save(temporary / f"{key}.npy", np.asarray(values))
    temporary.rename(folder)


def part_name(number: int) -> str:
    """Folder name of a part."""
    return f"part-{number:05d}"


def read_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of a dataset folder."""
    path = folder / "metadata.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: not a dataset folder; make one with collect()")
    try:
        metadata: dict[str, Any] = json.loads(path.read_text())
        version = metadata.get("format_version")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}); collect into another folder") from error
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} has format version {version!r}, expected {FORMAT_VERSION}")
    return metadata


def _open_part(folder: Path) -> dict[str, np.ndarray]:
    part = {}
    for key in ARRAYS:
        path = folder / f"{key}.npy"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing; run the same collect() again, it makes what is not there"
            )
        try:
            part[key] = np.load(path, mmap_mode=None if key == "length" else "r")
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); delete {folder} and run the same collect() again"
            ) from error
    return part
