"""python -m gbp_agent.convert dino-wm CHECKPOINT OUT, or dino-wm-data FOLDER OUT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from .dino_wm import convert_checkpoint
from .dino_wm_data import convert_data


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


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"dino-wm": dino_wm, "dino-wm-data": dino_wm_data})
