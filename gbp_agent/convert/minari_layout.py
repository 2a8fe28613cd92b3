"""What the leaves of a Minari episode are to training: picture, proprioception, action, state."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ..data import TrajectoryDataset
from ..data.dataset import ARRAYS
from ..observations import NO_PICTURE, ObservationKeys
from .minari_arrays import Leaves

FRAME_ARRAYS = ARRAYS[:-1]
TYPES = {"pixels": "uint8", "proprio": "float32", "action": "float32", "state": "float64"}


@dataclass(frozen=True)
class Layout:
    """Which leaf each of our arrays is made of.

    leaves: name of the leaf, for each of our arrays that is made of one.
    types: dtypes of our arrays. empty: row shapes of those that no leaf goes into.
    image_size: pixels per side that pictures are scaled to, if they are.
    """

    leaves: dict[str, str]
    types: dict[str, str]
    empty: dict[str, tuple[int, ...]]
    image_size: int | None = None

    def same(self, leaves: Leaves) -> dict[str, str]:
        """Our array for each leaf that is the same as one, so that it needs no keeping."""
        return {
            leaf: name
            for name, leaf in self.leaves.items()
            if leaves[leaf].dtype == self.types[name] and not (name == "pixels" and self.image_size)
        }

    def arrays(self, leaves: Leaves) -> Leaves:
        """Our arrays of an episode, each with a row per frame.

        Raises:
            ValueError: a leaf is missing, or has not so many rows.
        """
        frames = len(leaves["rewards"]) + 1
        found = {}
        for name in FRAME_ARRAYS:
            if name not in self.leaves:
                found[name] = np.zeros((frames, *self.empty[name]), self.types[name])
                continue
            leaf, due = self.leaves[name], frames - (name == "action")
            if len(leaves.get(leaf, ())) != due:
                raise ValueError(f"{leaf} has {len(leaves.get(leaf, ()))} rows, expected {due}")
            value = leaves[leaf].astype(self.types[name], copy=False)
            if name == "action":  # the last frame has none
                value = np.concatenate([value, np.zeros((1, *value.shape[1:]), value.dtype)])
            found[name] = self._scaled(value) if name == "pixels" else value
        return found

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        if not self.image_size or pixels.shape[1:3] == (self.image_size, self.image_size):
            return pixels
        size = (self.image_size, self.image_size)
        return np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in pixels])


def choose_layout(leaves: Leaves, keys: ObservationKeys | None, image_size: int | None) -> Layout:
    """The layout of a data set whose first episode has these leaves; see `from_minari`.

    Raises:
        KeyError: an observation lacks an entry.
        ValueError: an entry is no picture or no vector.
    """
    names = _default_entries(leaves) if keys is None else _entries(leaves, keys)
    found = {name: f"observations.{key}" if key else "observations" for name, key in names.items()}
    for name, leaf in found.items():
        value = leaves[leaf]
        square = image_size is not None or value.shape[1:2] == value.shape[2:3]
        picture = value.dtype == np.uint8 and value.shape[3:] == (3,) and square
        vector = value.dtype.kind in "biuf" and value.ndim == 2
        if not (picture if name == "pixels" else vector):
            wanted = "(S, S, 3) uint8" if name == "pixels" else "numbers (p,)"
            raise ValueError(
                f"{leaf} is {value.dtype} of shape {value.shape[1:]}, expected {wanted}; choose "
                "other keys, give image_size for pictures that are not square, or wrap the env "
                "and record again"
            )
    found["action"] = "actions"
    state = leaves.get("infos.state", np.zeros(0))
    if state.ndim == 2 and state.dtype.kind == "f" and len(state) == len(leaves["rewards"]) + 1:
        found["state"] = "infos.state"
    empty = {"pixels": NO_PICTURE.shape, "proprio": (1,), "state": (0,)}
    return Layout(found, TYPES, {k: v for k, v in empty.items() if k not in found}, image_size)


def _default_entries(leaves: Leaves) -> dict[str, str]:
    """The entries of an observation that are taken where no keys are given, "" for all of it."""
    if "observations" in leaves:
        return {"pixels" if leaves["observations"].ndim == 4 else "proprio": ""}
    entries = (("pixels", "pixels"), ("proprio", "observation"), ("proprio", "proprio"))
    found = {name: key for name, key in entries if f"observations.{key}" in leaves}
    return found or _entries(leaves, ObservationKeys())  # which says what is missing


def _entries(leaves: Leaves, keys: ObservationKeys) -> dict[str, str]:
    if "observations" in leaves:
        return {"proprio": ""}
    found = {"pixels": keys.pixels} if keys.pixels else {}
    if not found or keys.proprio != "proprio" or "observations.proprio" in leaves:
        found["proprio"] = keys.proprio
    for key in found.values():
        if f"observations.{key}" not in leaves:
            parts = (leaf.partition(".") for leaf in leaves)
            present = ", ".join(repr(rest) for first, _, rest in parts if first == "observations")
            raise KeyError(f"observation has no {key!r}, only {present}; give other keys")
    return found


def own_layout(dataset: TrajectoryDataset) -> Layout:
    """The layout of the Minari data set that a dataset of ours becomes: a Dict of "pixels" and
    "proprio", or the latter alone where there are no pictures; states among the infos."""
    first = dataset.episode(0)
    full = {name for name in FRAME_ARRAYS if first[name][0].size}
    leaves = {"proprio": "observations", "action": "actions", "state": "infos.state"}
    if "pixels" in full:
        leaves |= {"pixels": "observations.pixels", "proprio": "observations.proprio"}
    return Layout(
        {name: leaf for name, leaf in leaves.items() if name in full},
        {name: str(value.dtype) for name, value in first.items()},
        {name: value.shape[1:] for name, value in first.items() if name not in full},
    )


def unknown(steps: int) -> Leaves:
    """Rewards and ends of an episode of ours, which tells none: NaN, and a truncation."""
    last = np.arange(steps) == steps - 1
    nothing = np.full(steps, np.nan)
    return {"rewards": nothing, "terminations": np.zeros(steps, bool), "truncations": last}
