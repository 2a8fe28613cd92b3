"""Data folders of DINO-WM as datasets of ours.

pusht/{train,val}   states.pth (N, T, 5), velocities.pth (N, T, 2), rel_actions.pth (N, T, 2) in px,
                    seq_lengths.pkl, obses/episode_000.mp4
point_maze          states.pth (N, T, 4), actions.pth, seq_lengths.pth,
                    obses/episode_000.pth (T H W C)
wall                states.pth (N, T, 2), actions.pth, door_locations.pth, wall_locations.pth,
                    obses/episode_000.pth (T C H W)

Format: github.com/gaoyuezhou/dino_wm. Tensors are read with `weights_only=True`.
"""

from __future__ import annotations

import io
import json
import math
import pickle
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import torch
from tqdm import tqdm

from ..data import TrajectoryDataset
from ..data.dataset import FORMAT_VERSION, part_name, write_part
from .dino_wm import ENVS

STATES = {
    "pusht": ["agent x", "agent y", "block x", "block y", "theta", "velocity x", "velocity y"],
    "point_maze": ["x", "y", "vx", "vy"],
    "wall": ["x", "y"],
}
PROPRIO = {"pusht": [0, 1, 5, 6], "point_maze": [0, 1, 2, 3], "wall": [0, 1]}  # of the state
EPISODES_PER_PART = 50


def convert_data(folder: Path, out: Path, env: str, progress: bool = True) -> TrajectoryDataset:
    """Write a DINO-WM data folder as one of ours, in parts: a killed run goes on.

    env: "pusht", "point_maze" or "wall".

    Raises:
        FileNotFoundError: a file of the folder is missing.
        ValueError: a file holds something else than it should, or `out` holds other data.
    """
    if env not in STATES:
        raise ValueError(f"env must be one of {', '.join(STATES)}, got {env!r}")
    state, action, length = _read(folder, env)
    count = len(length)
    parts = -(-count // EPISODES_PER_PART)
    first = _pictures(folder, env, 0)
    bound = ENVS[env][1]
    claim_folder(
        out,
        {
            "format_version": FORMAT_VERSION,
            "env_id": ENVS[env][0],
            "env_kwargs": {"image_size": int(first.shape[1])},
            "seed": 0,
            "episodes": count,
            "steps": int(length.max()) - 1,
            "parts": parts,
            "episodes_per_part": EPISODES_PER_PART,
            "action_low": [-bound, -bound],
            "action_high": [bound, bound],
            "state_names": STATES[env],
            "state_periods": {"theta": 2 * math.pi} if env == "pusht" else {},
            "versions": {"numpy": np.__version__},
            "source": f"DINO-WM, {env}",
            **_layouts(folder, env),
        },
    )
    with tqdm(total=count, desc=f"convert {env}", unit="episode", disable=not progress) as bar:
        for number in range(parts):
            episodes = range(
                number * EPISODES_PER_PART, min(count, (number + 1) * EPISODES_PER_PART)
            )
            if not (out / part_name(number)).exists():
                rows = [_episode(folder, env, i, state[i], action[i], length[i]) for i in episodes]
                joined = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
                write_part(out / part_name(number), {**joined, "length": length[list(episodes)]})
            bar.update(len(episodes))
    return TrajectoryDataset(out)


def _read(folder: Path, env: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States (N, T, s), actions (N, T, 2) in env units, and frames per episode (N,)."""
    state = _tensor(folder / "states.pth").double().numpy()
    if env == "pusht":
        velocity = _tensor(folder / "velocities.pth").double().numpy()
        state = np.concatenate([state, velocity], -1)
        action = _tensor(folder / "rel_actions.pth").float().numpy() / 100.0
    else:
        action = _tensor(folder / "actions.pth").float().numpy()
    if state.ndim != 3 or state.shape[-1] != len(STATES[env]) or action.shape[-1] != 2:
        raise ValueError(
            f"{folder} has states {state.shape} and actions {action.shape}, expected "
            f"(N, T, {len(STATES[env])}) and (N, T, 2) for {env}"
        )
    length: np.ndarray = np.full(len(state), state.shape[1])
    if (folder / "seq_lengths.pth").exists():
        length = _tensor(folder / "seq_lengths.pth").numpy()
    elif (folder / "seq_lengths.pkl").exists():
        length = np.asarray(_plain_pickle(folder / "seq_lengths.pkl"))
    if length.shape != (len(state),) or length.max() > state.shape[1]:
        raise ValueError(f"the sequence lengths in {folder} do not fit {len(state)} episodes")
    return state, action, length.astype(np.int64)


def _episode(
    folder: Path, env: str, index: int, state: np.ndarray, action: np.ndarray, length: int
) -> dict[str, np.ndarray]:
    """Arrays of one episode; the row of its last frame has no action."""
    pixels = _pictures(folder, env, index)
    if len(pixels) < length:
        raise ValueError(f"episode {index} of {folder} has {len(pixels)} pictures, not {length}")
    taken = action[:length].astype(np.float32).copy()
    taken[-1] = 0.0
    return {
        "pixels": pixels[:length],
        "proprio": state[:length, PROPRIO[env]].astype(np.float32),
        "action": taken,
        "state": state[:length],
    }


def _pictures(folder: Path, env: str, index: int) -> np.ndarray:
    """Pictures (T, S, S, 3) uint8 of an episode."""
    file = folder / "obses" / f"episode_{index:03d}.{'mp4' if env == 'pusht' else 'pth'}"
    if env == "pusht":
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing")
        with imageio.get_reader(file) as reader:
            return np.stack([np.asarray(frame) for frame in reader])  # type: ignore[attr-defined]
    pictures = _tensor(file).numpy()
    if env == "wall":
        pictures = pictures.transpose(0, 2, 3, 1)
    if pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise ValueError(f"{file} has pictures of shape {pictures.shape}, expected three channels")
    if pictures.dtype != np.uint8:
        scale = 255.0 if pictures.max() <= 1 else 1.0
        pictures = np.clip(np.round(pictures * scale), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pictures)


def _layouts(folder: Path, env: str) -> dict[str, Any]:
    """Where wall and door of each of Wall's episodes are, as far as the folder tells."""
    found = {}
    for key in ("wall_locations", "door_locations") if env == "wall" else ():
        if (folder / f"{key}.pth").exists():
            found[key] = _tensor(folder / f"{key}.pth").tolist()
    return found


def _tensor(file: Path) -> torch.Tensor:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: not a data folder of DINO-WM")
    try:
        value = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{file} holds more than a tensor, or is damaged: {reason}") from error
    if not isinstance(value, torch.Tensor):
        value = torch.as_tensor(np.asarray(value))
    return value


class _Numbers(pickle.Unpickler):
    """Reads lists of numbers and NumPy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _plain_pickle(file: Path) -> Any:
    try:
        return _Numbers(io.BytesIO(file.read_bytes())).load()
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{file} holds more than numbers, or is damaged: {error}") from error


def claim_folder(out: Path, metadata: dict[str, Any]) -> None:
    """Write metadata.json, or check that the one there is the same."""
    file = out / "metadata.json"
    if file.exists():
        if json.loads(file.read_text()) != metadata:
            raise ValueError(f"{out} holds other data; give another folder")
        return
    out.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(metadata, indent=2) + "\n")
    temporary.replace(file)
