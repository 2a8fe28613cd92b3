"""Datasets of ours as data sets of Minari."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from ..data import TrajectoryDataset
from ..data.dataset import part_name
from .minari_arrays import Leaves, as_space, nest, read_part
from .minari_layout import own_layout, unknown

KEPT_FILE = "minari.json"
SPACES = ("observation_space", "action_space")
_NOT_COPIED = {
    "dataset_id", "minari_version", "data_format", "jpeg_encoding", "dataset_size",
    "total_episodes", "total_steps", *SPACES,
}  # fmt: skip


def import_minari() -> Any:
    """The package.

    Raises:
        ImportError: it is not installed, or of a version that cannot keep pictures as they are.
    """
    remedy = 'pip install "minari[hdf5]>=0.5.4"'
    try:
        import h5py  # noqa: F401  (what Minari writes, and most data sets are)
        import minari
        from minari.dataset.minari_storage import MinariStorage
    except ImportError as error:
        raise ImportError(f"data sets of Minari need the package: {remedy}") from error
    if not hasattr(MinariStorage, "jpeg_encoding"):
        raise ImportError(f"got minari {minari.__version__}, which is too old: {remedy}")
    return minari


def to_minari(folder: str | Path, dataset_id: str, progress: bool = True) -> Any:
    """Write a dataset of ours as a local Minari data set, HDF5 with pictures as they are.

    One that `from_minari` made gets back all that it had. Any other has no rewards and no ends to
    give: rewards are NaN, every episode is truncated; `from_minari` makes the same folder of it.
    The environment is named where it is registered in this process.

    Args:
        folder: dataset folder.
        dataset_id: "name-v0" or "namespace/name-v0".

    Returns:
        The `minari.MinariDataset`.

    Raises:
        ImportError: Minari is not installed.
        FileNotFoundError: there is no such dataset.
        ValueError: a bad id, or one that is taken; data that Minari cannot hold.
    """
    minari = import_minari()
    from minari.dataset.minari_storage import MinariStorage
    from minari.serialization import deserialize_space

    dataset = TrajectoryDataset(folder)
    target = _target(dataset_id)
    kept = dataset.folder / KEPT_FILE
    header = json.loads(kept.read_text()) if kept.exists() else _own_header(dataset)
    episodes = _kept_episodes(dataset, header["same"]) if kept.exists() else _own_episodes(dataset)
    spaces = {n: deserialize_space(header["metadata"][n]) for n in SPACES}
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    storage = MinariStorage.new(temporary / "data", **spaces, jpeg_encoding=False)
    about = {key: value for key, value in header["metadata"].items() if key not in _NOT_COPIED}
    about |= {key: set(about[key]) for key in ("author", "author_email") if key in about}
    about |= {"dataset_id": dataset_id, "minari_version": minari.__version__}
    storage.update_metadata(about)
    bar = tqdm(episodes, "to Minari", len(dataset), unit="episode", disable=not progress)
    storage.update_episodes(_buffer(leaves, spaces) for leaves in bar)
    storage.update_episode_metadata(map(_attributes, header["episodes"]))
    temporary.rename(target)
    return minari.load_dataset(dataset_id)


def _target(dataset_id: str) -> Path:
    """The folder of a new data set; its namespace is made."""
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.namespace import create_namespace, list_local_namespaces
    from minari.storage import get_dataset_path

    try:
        namespace = parse_dataset_id(dataset_id)[0]
    except (TypeError, ValueError) as error:
        raise ValueError(f"got id {dataset_id!r}, expected name-v0 or namespace/name-v0") from error
    target = Path(get_dataset_path(dataset_id)).absolute()  # Minari cannot write to relative ones
    if target.exists():
        raise ValueError(f"{target} is there already; give another name or version")
    if namespace is not None and namespace not in list_local_namespaces():
        create_namespace(namespace)
    return target


def _buffer(leaves: Leaves, spaces: dict[str, gym.Space]) -> Any:
    from minari.data_collector import EpisodeBuffer

    return EpisodeBuffer(
        observations=as_space(nest(leaves, "observations"), spaces["observation_space"]),
        actions=as_space(nest(leaves, "actions"), spaces["action_space"]),
        rewards=leaves["rewards"],  # type: ignore[arg-type]
        terminations=leaves["terminations"],  # type: ignore[arg-type]
        truncations=leaves["truncations"],  # type: ignore[arg-type]
        infos=nest(leaves, "infos"),
    )


def _attributes(about: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Metadata of an episode as HDF5 has them: flat, "options/start" for what is nested."""
    found: dict[str, Any] = {}
    for key, value in about.items():
        if isinstance(value, Mapping) and set(value) == {"array", "dtype"}:
            found[prefix + key] = np.array(value["array"], value["dtype"])
        elif isinstance(value, Mapping):
            found |= _attributes(value, f"{prefix}{key}/")
        elif prefix + key not in ("id", "total_steps"):
            found[prefix + key] = value
    return found


def _kept_episodes(dataset: TrajectoryDataset, same: dict[str, str]) -> Iterator[Leaves]:
    """The leaves of all episodes that came from Minari."""
    index = 0
    for number in range(dataset.metadata["parts"]):
        for leaves in read_part(dataset.folder / part_name(number)):
            arrays = dataset.episode(index)
            arrays["action"] = arrays["action"][:-1]
            yield leaves | {leaf: arrays[name] for leaf, name in same.items()}
            index += 1


def _own_episodes(dataset: TrajectoryDataset) -> Iterator[Leaves]:
    """The leaves of all episodes of ours."""
    layout = own_layout(dataset)
    for index in range(len(dataset)):
        arrays = dataset.episode(index)
        steps = len(arrays["action"]) - 1
        types = {name: str(value.dtype) for name, value in arrays.items()}
        if steps < 1 or arrays["action"][-1].any() or types != layout.types:
            raise ValueError(
                f"episode {index} of {dataset.folder} has {steps} steps, last action "
                f"{arrays['action'][-1]} and types {types}, expected at least 1, zeros and "
                f"{layout.types}; Minari cannot hold it"
            )
        arrays["action"] = arrays["action"][:-1]
        yield unknown(steps) | {leaf: arrays[name] for name, leaf in layout.leaves.items()}


def _own_header(dataset: TrajectoryDataset) -> dict[str, Any]:
    """What minari.json holds, for a dataset that is not from Minari."""
    from minari.serialization import serialize_space

    about, layout = dataset.metadata, own_layout(dataset)
    if not layout.leaves.keys() & {"pixels", "proprio"}:
        raise ValueError(f"{dataset.folder} has neither pictures nor proprioception")
    first = dataset.episode(0)
    spaces: dict[str, gym.Space] = {}
    if "pixels" in layout.leaves:
        spaces["pixels"] = gym.spaces.Box(0, 255, first["pixels"].shape[1:], np.uint8)
    if "proprio" in layout.leaves:
        kind = first["proprio"].dtype
        spaces["proprio"] = gym.spaces.Box(-np.inf, np.inf, first["proprio"].shape[1:], kind.type)
    observation = gym.spaces.Dict(spaces) if "pixels" in spaces else spaces["proprio"]
    low, high = (np.array(about[f"action_{n}"], layout.types["action"]) for n in ("low", "high"))
    actions = gym.spaces.Box(low, high, dtype=low.dtype.type)
    metadata = {
        "observation_space": serialize_space(observation),
        "action_space": serialize_space(actions),
        "description": f"{about['env_id']}, recorded by gbp_agent, which records no rewards (they "
        "are NaN) and no terminations.",
        "gbp_agent": {
            "metadata": about,
            "layout": asdict(layout),
            "parts": np.bincount(dataset.episodes[:, 0], minlength=about["parts"]).tolist(),
        },
    }
    spec = _env_spec(about["env_id"], about["env_kwargs"])
    collected = "source" not in about and isinstance(about["seed"], int)
    seeds = [{"seed": about["seed"] + i} if collected else {} for i in range(len(dataset))]
    return {"metadata": metadata | ({"env_spec": spec} if spec else {}), "episodes": seeds}


def _env_spec(env_id: str, env_kwargs: dict[str, Any]) -> str | None:
    """The environment as JSON; None where it is not registered or made by code that has no name."""
    try:
        spec = copy.deepcopy(gym.spec(env_id))
        spec.kwargs.update(env_kwargs)
        return spec.to_json()
    except (gym.error.Error, TypeError, ValueError):
        return None
