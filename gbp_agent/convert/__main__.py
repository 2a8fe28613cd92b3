"""python -m gbp_agent.convert: dino-wm, dino-wm-data, minari or to-minari."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ..observations import ObservationKeys
from .dino_wm import convert_checkpoint
from .dino_wm_data import convert_data
from .minari import from_minari, to_minari


def dino_wm(
    path: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    data: Path | None = None,
    encoder: Path | None = None,
) -> None:
    """Convert a checkpoint of DINO-WM. No code from it is run.

    Args:
        path: Checkpoint file, or the folder of its run; hydra.yaml has to be there.
        out: Folder to write, for WorldModelMPCAgent.from_pretrained.
        data: Dataset folder whose statistics are used; PushT's published ones by default.
        encoder: Weights of the encoder, where the checkpoint has none.
    """
    convert_checkpoint(path, out, data, encoder)
    print(f"model in {out}")


def dino_wm_data(
    folder: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    env: Literal["pusht", "point_maze", "wall"] = "pusht",
) -> None:
    """Convert a data folder of DINO-WM.

    Args:
        folder: The folder that holds states.pth and obses.
        out: Dataset folder to write.
        env: Which environment the data are of.
    """
    dataset = convert_data(folder, out, env)
    print(f"{len(dataset)} episodes, {dataset.frames} frames in {out}")


def minari(
    source: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    pixels: str | None = None,
    proprio: str | None = None,
    env_id: str | None = None,
    image_size: int | None = None,
    infos: bool = True,
    download: bool = False,
) -> None:
    """Convert a Minari data set to training data. What training does not read is kept as well.

    Args:
        source: Id of a local Minari data set, or its folder.
        out: Dataset folder to write.
        pixels: Entry of the observation that is the picture; by default "pixels", if there is one.
        proprio: Entry that is the proprioception, or the state; by default "proprio", or else
            "observation". An entry of an entry is outer.inner.
        env_id: What to call the environment where the data set does not.
        image_size: Pixels per side that pictures are scaled to.
        infos: Whether to keep infos.
        download: Fetch a data set that is not here from Minari's server.
    """
    keys = None
    if proprio or pixels:
        keys = ObservationKeys(pixels=pixels, proprio=proprio or "proprio")
    dataset = from_minari(
        source, out, keys, env_id=env_id, image_size=image_size, infos=infos, download=download
    )
    print(f"{len(dataset)} episodes, {dataset.frames} frames in {out}")


def minari_from_ours(
    folder: Annotated[Path, tyro.conf.Positional],
    dataset_id: Annotated[str, tyro.conf.Positional],
    register: str | None = None,
) -> None:
    """Convert a dataset folder to a local Minari data set.

    Args:
        folder: Dataset folder.
        dataset_id: Its name in Minari: name-v0, or namespace/name-v0.
        register: Module to import first, which registers the environment, e.g. gbp_envs.
    """
    if register:
        importlib.import_module(register)
    found = to_minari(folder, dataset_id)
    print(f"{len(found)} episodes, {found.total_steps} steps in {found.storage.data_path.parent}")
    if found.env_spec is None:
        print("without its environment, which is not registered here: name its module, --register")


COMMANDS: dict[str, Callable[..., None]] = {
    "dino-wm": dino_wm,
    "dino-wm-data": dino_wm_data,
    "minari": minari,
    "to-minari": minari_from_ours,
}

if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(COMMANDS)
