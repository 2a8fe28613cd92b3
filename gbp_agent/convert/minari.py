"""Data sets of Minari (minari.farama.org) as datasets of ours, and back.

Training reads pictures, proprioception and actions. Everything else (rewards, terminations, other
observations, infos, seeds, spaces, authors) is kept beside them, in OUT/minari.json and in files of
the parts (minari_arrays.py), so that `to_minari` gives the same data set again. A data set that
`to_minari` made of a dataset of ours becomes that dataset again, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from ..data import TrajectoryDataset
from ..data.dataset import FORMAT_VERSION, part_name, write_part
from ..observations import ObservationKeys
from .dino_wm_data import claim_folder
from .minari_arrays import Leaves, PartRows, flatten
from .minari_export import KEPT_FILE, SPACES, import_minari, to_minari
from .minari_layout import Layout, choose_layout, unknown

__all__ = ["from_minari", "to_minari"]

EPISODES_PER_PART = 50
PART_BYTES = 256 * 2**20


def from_minari(
    source: Any,
    out: str | Path,
    keys: ObservationKeys | None = None,
    *,
    env_id: str | None = None,
    image_size: int | None = None,
    infos: bool = True,
    download: bool = False,
    progress: bool = True,
) -> TrajectoryDataset:
    """Write a Minari data set as a dataset of ours, part by part: a killed run goes on.

    Args:
        source: id of a local data set, its folder, or a `minari.MinariDataset`.
        out: dataset folder to write.
        keys: which entries of an observation are the picture and the proprioception; an entry of
            an entry is "outer.inner". By default a dict's "pixels", and its "proprio" or else
            "observation", as goal environments of Gymnasium call it; an observation that is an
            array (H, W, 3) is the picture, any other array the proprioception. Beside pictures
            without a "proprio", the proprioception is one zero.
        env_id: what to call the environment where the data set does not.
        image_size: pixels per side that pictures are scaled to; the originals are kept as well.
        infos: whether infos are kept; `infos["state"]` becomes the dataset's states.
        download: fetch a data set that is not here from Minari's server.

    Raises:
        ImportError: Minari is not installed.
        FileNotFoundError: there is no such data set.
        KeyError: an observation lacks an entry.
        ValueError: the data are not for a world model, cannot be kept, or `out` holds others.
    """
    dataset, out = _open(source, download), Path(out)
    raw = dataset.storage.read_raw_metadata(dataset.storage.data_path)
    ours = raw.get("gbp_agent", {})
    if ours and sum(ours["parts"]) == len(dataset):
        return _restore(dataset, out, ours, progress)
    _check(dataset, env_id)
    first = _leaves(dataset[0], infos)
    layout = choose_layout(first, keys, image_size)
    parts = _parts(dataset, layout, first)
    taken = {**layout.leaves, "image_size": image_size, "infos": infos}
    claim_folder(out, {**_metadata(dataset, env_id, parts), "minari": taken})
    _keep(out, dataset, raw, layout.same(first))
    read = partial(_for_training, layout, layout.same(first))
    return _write_parts(dataset, out, parts, read, infos, progress)


def _check(dataset: Any, env_id: str | None) -> None:
    actions = dataset.action_space
    if len(dataset) == 0 or not isinstance(actions, gym.spaces.Box) or len(actions.shape) != 1:
        raise ValueError(
            f"{dataset.id} has {len(dataset)} episodes and actions {actions}, expected at least 1 "
            "and a Box of shape (A,)"
        )
    if env_id is None and dataset.env_spec is None:
        raise ValueError(f"{dataset.id} names no environment; give env_id")


def _open(source: Any, download: bool) -> Any:
    """The MinariDataset of an id or a folder; `source` itself where it is neither."""
    minari = import_minari()
    if not isinstance(source, (str, Path)):
        return source
    if Path(source).is_dir():
        for folder in (Path(source) / "data", Path(source)):
            if (folder / "metadata.json").is_file():
                return minari.MinariDataset(folder)
        raise FileNotFoundError(f"{source} is no Minari data set: data/metadata.json is missing")
    try:
        return minari.load_dataset(str(source), download=download)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no Minari data set {str(source)!r} here, neither a folder nor an id; "
            "download=True (--download) fetches one"
        ) from error


def _leaves(data: Any, infos: bool = True) -> Leaves:
    """The arrays of an episode of Minari."""
    found: Leaves = {}
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        found |= flatten(getattr(data, name), name)
    return found | flatten(data.infos or {}, "infos") if infos else found


def _parts(dataset: Any, layout: Layout, first: Leaves) -> list[list[int]]:
    """Which episodes go into each part: a part has to fit into memory."""
    arrays = [*layout.arrays(first).values(), *first.values()]
    frame = sum(array.nbytes for array in arrays) / (len(first["rewards"]) + 1)
    parts: list[list[int]] = []
    size = 0.0
    for index, about in enumerate(dataset.storage.get_episode_metadata(dataset.episode_indices)):
        more = frame * (about["total_steps"] + 1)
        if not parts or len(parts[-1]) == EPISODES_PER_PART or size + more > PART_BYTES:
            parts.append([])
            size = 0.0
        parts[-1].append(index)
        size += more
    return parts


def _metadata(dataset: Any, env_id: str | None, parts: list[list[int]]) -> dict[str, Any]:
    abouts = dataset.storage.get_episode_metadata(dataset.episode_indices)
    spec = dataset.env_spec
    return {
        "format_version": FORMAT_VERSION,
        "env_id": env_id or spec.id,
        "env_kwargs": spec.kwargs if spec and env_id in (None, spec.id) else {},
        "seed": None,
        "episodes": len(dataset),
        "steps": int(max(about["total_steps"] for about in abouts)),
        "parts": len(parts),
        "episodes_per_part": max(map(len, parts)),
        "action_low": dataset.action_space.low.tolist(),
        "action_high": dataset.action_space.high.tolist(),
        "state_names": [],
        "state_periods": {},
        "versions": {"minari": dataset.minari_version, "numpy": np.__version__},
        "source": f"the Minari data set {dataset.id}",
    }


def _keep(out: Path, dataset: Any, raw: dict[str, Any], same: dict[str, str]) -> None:
    """Write minari.json: what no array holds."""
    from minari.serialization import serialize_space

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufUS":
            return {"array": value.tolist(), "dtype": str(value.dtype)}
        if isinstance(value, np.generic) and value.dtype.kind in "biufU":
            return value.item()
        raise ValueError(f"{dataset.id} has {value!r} in an episode's metadata, cannot keep it")

    spaces = {name: serialize_space(getattr(dataset, name)) for name in SPACES}
    abouts = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
    content = {"metadata": raw | spaces, "same": same, "episodes": abouts}
    temporary = out / f"{KEPT_FILE}.tmp"
    temporary.write_text(json.dumps(content, indent=1, default=plain) + "\n")
    temporary.replace(out / KEPT_FILE)


def _for_training(layout: Layout, same: dict[str, str], leaves: Leaves) -> tuple[Leaves, Leaves]:
    """Our arrays of an episode of Minari, and the leaves to keep beside them."""
    arrays = layout.arrays(leaves)
    if layout.same(leaves) != same:
        raise ValueError("its arrays are of other types than those of the first episode")
    for name in ("proprio", "action"):
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{layout.leaves[name]} is not finite; leave such episodes out")
    return arrays, {name: value for name, value in leaves.items() if name not in same}


def _restore(dataset: Any, out: Path, ours: dict[str, Any], progress: bool) -> TrajectoryDataset:
    """Write the dataset of ours that `to_minari` made a Minari data set of."""
    ends = np.cumsum(ours["parts"])
    parts = [list(range(e - n, e)) for e, n in zip(ends, ours["parts"], strict=True)]
    claim_folder(out, ours["metadata"])
    read = partial(_as_it_was, Layout(**ours["layout"]))
    return _write_parts(dataset, out, parts, read, True, progress)


def _as_it_was(layout: Layout, leaves: Leaves) -> tuple[Leaves, Leaves]:
    """Our arrays of an episode that `to_minari` wrote."""
    made = unknown(len(leaves["rewards"]))
    more = {name: leaves[name] for name in leaves if name not in layout.leaves.values()}
    if set(more) != set(made) or not all(np.array_equal(more[n], made[n], True) for n in made):
        raise ValueError(
            "it was given rewards, ends or infos after to_minari wrote it; take 'gbp_agent' out of "
            "the data set's metadata.json to keep them"
        )
    return layout.arrays(leaves), {}


def _write_parts(
    dataset: Any,
    out: Path,
    parts: list[list[int]],
    read: Callable[[Leaves], tuple[Leaves, Leaves]],
    infos: bool,
    progress: bool,
) -> TrajectoryDataset:
    """Write the parts that are not there yet; `read` makes our arrays, and those to keep, of an
    episode's leaves."""
    with tqdm(total=len(dataset), desc="from Minari", unit="episode", disable=not progress) as bar:
        for number, episodes in enumerate(parts):
            bar.update(len(episodes))
            if (out / part_name(number)).exists():
                continue
            ours, kept = PartRows(), PartRows()
            for data in dataset.iterate_episodes(dataset.episode_indices[episodes]):
                try:
                    arrays, others = read(_leaves(data, infos))
                    ours.add(arrays)
                    kept.add(others)
                except ValueError as error:
                    raise ValueError(f"episode {data.id} of {dataset.id}: {error}") from error
            length = np.array(ours.rows["action"], np.int64)
            write_part(out / part_name(number), ours.joined() | {"length": length} | kept.files())
    return TrajectoryDataset(out)
