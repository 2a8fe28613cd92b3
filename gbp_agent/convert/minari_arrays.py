"""Episodes of Minari as named arrays, and files for those that training does not read.

A leaf is an array among an episode's nested values, by a dotted name: `observations.desired_goal`,
`actions`, `rewards`, `infos.qpos`. Those that are the same as an array of ours are stored as that;
the others lie beside it, as they came:

PART/minari.NAME.npy       (rows, ...)         the leaf in all episodes of the part, end to end
     minari-rows.NAME.npy  (episodes,) int64   rows per episode; -1 where an episode lacks the leaf
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import gymnasium as gym
import numpy as np

Leaves = dict[str, np.ndarray]


@dataclass
class PartRows:
    """Gathers the named arrays of a part's episodes.

    values: the arrays by name. rows: their rows in each episode so far, -1 where it lacks one.
    """

    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)
    episodes: int = 0

    def add(self, leaves: Leaves) -> None:
        """Take an episode.

        Raises:
            ValueError: a leaf has another shape or type than in an earlier episode.
        """
        for name, value in leaves.items():
            earlier = self.values.setdefault(name, [])
            if earlier and _kind(earlier[0]) != _kind(value):
                raise ValueError(
                    f"{name} is {_kind(value)}, in an earlier episode it was {_kind(earlier[0])}, "
                    "and cannot be kept; infos=False (--no-infos) leaves infos out"
                )
            earlier.append(value)
            self.rows.setdefault(name, [-1] * self.episodes).append(len(value))
        self.episodes += 1
        for counts in self.rows.values():
            counts.extend([-1] * (self.episodes - len(counts)))

    def joined(self) -> Leaves:
        """The arrays of all episodes, end to end."""
        return {name: np.concatenate(values) for name, values in self.values.items()}

    def files(self) -> Leaves:
        """The arrays of all episodes and their rows per episode, by names of files."""
        counts = {f"minari-rows.{n}": np.array(c, np.int64) for n, c in self.rows.items()}
        return {f"minari.{name}": value for name, value in self.joined().items()} | counts


def _kind(value: np.ndarray) -> str:
    """Type and shape of a row; texts of any length are of one type."""
    return f"{'text' if value.dtype.kind == 'U' else value.dtype.str} {list(value.shape[1:])}"


def read_part(folder: Path) -> Iterator[Leaves]:
    """The leaves that are kept in a part, episode by episode (views into the files)."""
    found = []
    for file in sorted(folder.glob("minari-rows.*.npy")):
        name = file.name.removeprefix("minari-rows.").removesuffix(".npy")
        rows = np.load(file)
        begin = np.concatenate([[0], np.cumsum(np.maximum(rows, 0))])
        values = np.load(folder / f"minari.{name}.npy", mmap_mode="r")
        found.append((name, begin, rows, values))
    for i in range(len(np.load(folder / "length.npy"))):
        yield {
            name: values[begin[i] : begin[i] + rows[i]]
            for name, begin, rows, values in found
            if rows[i] >= 0
        }


def flatten(value: Any, name: str) -> Leaves:
    """The leaves of nested dicts and tuples, by dotted names that begin with `name`.

    Raises:
        ValueError: a leaf is no array of numbers or texts with a row per step.
    """
    if isinstance(value, tuple):
        value = {str(index): child for index, child in enumerate(value)}
    if isinstance(value, Mapping):
        found: Leaves = {}
        for key, child in value.items():
            found |= flatten(child, f"{name}.{quote(key, safe=' ').replace('.', '%2E')}")
        return found
    try:
        return {name: _as_array(value)}
    except ValueError as error:
        raise ValueError(
            f"{name} cannot be kept ({error}), expected an array of numbers or texts with a row "
            "per step; infos=False (--no-infos) leaves infos out"
        ) from error


def _as_array(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim == 0 or array.dtype.kind not in "biufcUO":
        raise ValueError(f"it is {array.dtype} of shape {array.shape}")
    if array.dtype.kind in "UO":  # HDF5 has texts as bytes
        texts = [v.decode() if isinstance(v, bytes) else v for v in array.tolist()]
        array = np.array(texts)
        if array.ndim != 1 or array.dtype.kind != "U" or array.tolist() != texts:
            raise ValueError("it holds objects, several texts per step or a text that ends in NUL")
    return array


def nest(leaves: Leaves, name: str) -> Any:
    """What `flatten` made the leaves under `name` of: dicts, also for tuples; texts in lists."""
    if name in leaves:
        value = leaves[name]
        return value.tolist() if value.dtype.kind == "U" else value
    below = (leaf.removeprefix(f"{name}.") for leaf in leaves if leaf.startswith(f"{name}."))
    keys = dict.fromkeys(rest.split(".")[0] for rest in below)
    return {unquote(key): nest(leaves, f"{name}.{key}") for key in keys}


def as_space(value: Any, space: gym.Space) -> Any:
    """Nested dicts with tuples where the space has them."""
    if isinstance(space, gym.spaces.Dict):
        return {key: as_space(child, space[key]) for key, child in value.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(as_space(value[str(i)], child) for i, child in enumerate(space.spaces))
    return value
