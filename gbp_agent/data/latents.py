"""Latents of a whole dataset, encoded once by a frozen encoder and kept in a file."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..report import write_text
from ..types import Latent
from ..world_model import LatentWorldModel, join
from .dataset import TrajectoryDataset
from .mirrors import IDENTITY, Mirror, mirrors_of

log = logging.getLogger(__name__)

ENCODING = ("blur", "centered", "interpolation", "pixel_mean", "pixel_std", "encoder_size")
"""Settings of models by which the same weights encode differently."""


@dataclass(frozen=True)
class LatentDataset:
    """Latents and model-unit actions of all frames, episodes end to end.

    latents: (n, L), visual and proprioceptive part side by side; float32, or float16 for models of
        several tokens per frame, whose latents are many.
    actions: (n, A) float32, z-scored, taken after the frame of the same row.
    begin, length: (episodes,) int64, first row and number of frames of each episode.
    copies: how often the dataset's episodes are there, mirrored: the first copy of all of them,
        then the second. Whoever names an episode for its windows means all its copies.
    """

    latents: Tensor
    actions: Tensor
    begin: Tensor
    length: Tensor
    copies: int = 1

    @classmethod
    def encode(
        cls,
        model: LatentWorldModel,
        dataset: TrajectoryDataset,
        file: Path,
        progress: bool = True,
        batch_size: int = 512,
        mirrors: bool = False,
    ) -> LatentDataset:
        """Read the latents from `file`, or encode the dataset and write it there.

        With `mirrors`, the mirrored copies of the dataset follow, each from a file beside that one:
        latents.npy, latents-x.npy, … A stamp beside each, latents.json, says of which encoder and
        data it is; a file of others is written anew.

        Raises:
            ValueError: mirrored copies of an environment that names no symmetry.
        """
        views = mirrors_of(dataset.metadata) if mirrors else [IDENTITY]
        env_actions = dataset.array("action")
        latents, actions = [], []
        for view in views:
            path = file.with_stem(f"{file.stem}-{view.axes}") if view.axes else file
            stamp = {"encoder": _digest(model), "data": _about(dataset)}
            if not path.exists() or not _is_of(path, stamp, dataset.frames):
                _write(model, dataset, path, progress, batch_size, view)
                write_text(path.with_suffix(".json"), json.dumps(stamp) + "\n")
            latents.append(torch.from_numpy(np.load(path)))
            seen = torch.from_numpy(view.action(env_actions)).to(model.device)
            normalized = model.action_normalizer.normalize(seen)
            actions.append(normalized.cpu())
        length = torch.from_numpy(dataset.episodes[:, 2].copy()).repeat(len(views))
        begin = torch.cumsum(length, 0) - length
        return cls(torch.cat(latents), torch.cat(actions), begin, length, len(views))

    def windows(
        self,
        frames: int,
        frameskip: int,
        episodes: np.ndarray,
        batch_size: int,
        seed: int,
        first_step: int = 0,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Random windows without end: latents (W, frames, L), model actions (W, frames-1, M).

        The windows of step k depend on `seed` and k alone.
        """
        chosen = torch.from_numpy(np.asarray(episodes))
        originals = len(self.length) // self.copies
        chosen = torch.cat([chosen + copy * originals for copy in range(self.copies)])
        span = (frames - 1) * frameskip
        chosen = chosen[self.length[chosen] > span]
        if not len(chosen):
            raise ValueError(f"no episode has the {span + 1} frames of a window")
        step = first_step
        while True:
            generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
            episode = chosen[torch.randint(len(chosen), (batch_size,), generator=generator)]
            share = torch.rand(batch_size, generator=generator)
            offset = (share * (self.length[episode] - span)).long()
            yield self.window(self.begin[episode] + offset, frames, frameskip)
            step += 1

    def window(self, rows: Tensor, frames: int, frameskip: int) -> tuple[Tensor, Tensor]:
        """The windows that begin at these rows, float32: (W, frames, L) and (W, frames-1, M)."""
        span = (frames - 1) * frameskip
        latents = self.latents[rows[:, None] + torch.arange(0, span + 1, frameskip)].float()
        actions = self.actions[rows[:, None] + torch.arange(span)]
        return latents, actions.unflatten(1, (frames - 1, frameskip)).flatten(2)

    def every(self, episodes: np.ndarray, frames: int, frameskip: int) -> Tensor:
        """First rows of all windows of these episodes, their mirrored copies included."""
        originals = len(self.length) // self.copies
        copies = [episodes + copy * originals for copy in range(self.copies)]
        return self.evenly(np.concatenate(copies), frames, frameskip, stride=1)

    def evenly(self, episodes: np.ndarray, frames: int, frameskip: int, stride: int) -> Tensor:
        """First rows of windows at every `stride`-th offset of these episodes; of those that are
        too short for one, none."""
        span = (frames - 1) * frameskip
        rows = [
            int(self.begin[i]) + torch.arange(0, max(0, int(self.length[i]) - span), stride)
            for i in episodes
        ]
        return torch.cat(rows)


@torch.no_grad()
def encode_frames(
    model: LatentWorldModel, pixels: np.ndarray, proprio: np.ndarray, batch_size: int = 512
) -> Tensor:
    """Joined latents (..., L) of frames: pixels (..., S, S, 3) uint8, proprio (..., p) in env
    units."""
    device, leading = model.device, proprio.shape[:-1]
    count = math.prod(leading)  # of pictures that may be empty
    pixels, proprio = pixels.reshape(count, *pixels.shape[-3:]), proprio.reshape(count, -1)
    found = []
    for begin in range(0, count, batch_size):
        rows = slice(begin, begin + batch_size)
        latent: Latent = model.encode(
            torch.from_numpy(np.ascontiguousarray(pixels[rows])).to(device),
            torch.from_numpy(np.ascontiguousarray(proprio[rows])).to(device),
        )
        found.append(join(latent).float().cpu())
    return torch.cat(found).unflatten(0, leading)


def _write(
    model: LatentWorldModel,
    dataset: TrajectoryDataset,
    file: Path,
    progress: bool,
    batch_size: int,
    mirror: Mirror,
) -> None:
    model.eval()
    found = []
    with tqdm(
        total=dataset.frames, desc=f"encode {file.name}", unit="frame", disable=not progress
    ) as bar:
        for first in range(0, len(dataset), 10):
            episodes = range(first, min(first + 10, len(dataset)))
            pixels, proprio = (dataset.array(k, episodes) for k in ("pixels", "proprio"))
            seen = (mirror.pixels(pixels), mirror.proprio(proprio))
            latents = encode_frames(model, *seen, batch_size).numpy()
            found.append(latents.astype(np.float16) if model.tokens > 1 else latents)
            bar.update(len(proprio))
    file.parent.mkdir(parents=True, exist_ok=True)
    for stale in (file, file.with_suffix(".json")):  # a kill on the way leaves none of it
        stale.unlink(missing_ok=True)
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.tmp.npy")
    np.save(temporary, np.concatenate(found))
    temporary.replace(file)


def _digest(model: LatentWorldModel) -> str:
    """Of all that a frame's latent depends on; the same for a model that was stored in float16."""
    shape = {key: repr(getattr(model.config, key, None)) for key in ENCODING}
    found = hashlib.sha256(json.dumps(shape).encode())
    for name, value in sorted(model.state_dict().items()):
        if name.startswith(("encoder.", "proprio_")):
            half = value.detach().cpu().contiguous().half()
            found.update(name.encode() + half.numpy().tobytes())
    return found.hexdigest()


def _about(dataset: TrajectoryDataset) -> str:
    """Of what a dataset's metadata say, and of how long its episodes are."""
    about = json.dumps(dataset.metadata, sort_keys=True).encode()
    return hashlib.sha256(about + dataset.episodes.tobytes()).hexdigest()


def _is_of(file: Path, stamp: dict[str, str], frames: int) -> bool:
    """Whether the latents in a file are those; one without a stamp is believed if it is as long."""
    beside = file.with_suffix(".json")
    known = json.loads(beside.read_text()) if beside.exists() else stamp
    if known == stamp and len(np.load(file, mmap_mode="r")) == frames:
        return True
    log.info("%s is of another encoder or other data, and is written anew", file)
    return False
