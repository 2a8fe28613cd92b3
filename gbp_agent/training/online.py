"""Online World Modeling: the simulator corrects the planner's own trajectories.

Every so often the agent, with the model as it is by then, starts from states of the training data
and plans and acts in the simulator towards goals from the data; all that was seen joins the
training data, at any offset and with its true history.

Source: arXiv 2512.09929, section on online world modeling; DAgger (arXiv 1011.0686) with the
simulator as the expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..agent import WorldModelMPCAgent
from ..data import TrajectoryDataset
from ..data.latents import LatentDataset, encode_frames
from ..data.mirrors import IDENTITY, Mirror, mirrors_of
from ..data.simulate import Simulator
from ..planners import GradientConfig


@dataclass(frozen=True)
class OnlineConfig:
    """Options of the simulator's corrections.

    every: optimiser steps from one round of acting to the next; the first is before step 0.
    trajectories: starts in a round. model_steps: length of each, in model steps.
    goals: "trajectory" takes the frame that a plan's length ahead in the same episode, "random" a
        frame of another trajectory.
    share: of each batch that comes from such trajectories, 0…1; the rest is the dataset's.
    buffer: trajectories that are kept, the latest ones.
    planner: of the agent that acts; proposals: at most so many of the model's are considered. Both
        may be cheaper than what the finished agent plans with.
    """

    every: int = 250
    trajectories: int = 128
    model_steps: int = 10
    goals: Literal["trajectory", "random"] = "trajectory"
    share: float = 0.5
    buffer: int = 4096
    planner: GradientConfig = field(default_factory=lambda: GradientConfig(steps=25, restarts=4))
    proposals: int = 512

    def __post_init__(self) -> None:
        for name in ("every", "trajectories", "model_steps", "buffer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in 0…1, got {self.share}")
        if self.goals not in ("trajectory", "random"):
            raise ValueError(f"goals must be 'trajectory' or 'random', got {self.goals!r}")


class OnlineBatches:
    """Batches of windows, a share of them from the agent's own trajectories.

    Each round is kept in `folder`, so that a resumed run goes on with the same ones.

    Args:
        agent: acts in the simulator; its model is the one in training.
        dataset, latents: the training data; episodes: the part of it to use. Where the latents are
            of mirrored copies too, so are those of the agent's trajectories.
    """

    def __init__(
        self,
        agent: WorldModelMPCAgent,
        dataset: TrajectoryDataset,
        latents: LatentDataset,
        episodes: np.ndarray,
        simulator: Simulator,
        config: OnlineConfig,
        folder: Path,
        seed: int,
    ):
        self._agent = agent
        self._dataset = dataset
        self._latents = latents
        self._episodes = episodes
        self._simulator = simulator
        self._config = config
        self._folder = folder
        self._seed = seed
        self._views = mirrors_of(dataset.metadata) if latents.copies > 1 else [IDENTITY]
        folder.mkdir(parents=True, exist_ok=True)

    def windows(self, frames: int, count: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows (count, frames, L) and model actions without end, from optimiser step `first`."""
        config, frameskip = self._config, self._agent.model.config.frameskip
        seen = round(config.share * count)
        where = (self._episodes, count - seen, self._seed)
        known = self._latents.windows(frames, frameskip, *where, first)
        step = first
        while True:
            number = step // config.every
            buffer = self._buffer(number)
            own = buffer.windows(
                frames, frameskip, np.arange(len(buffer.length)), seen, self._seed + 1, step
            )
            for _ in range(step, (number + 1) * config.every):
                parts = ([next(known)] if seen < count else []) + ([next(own)] if seen else [])
                latents, actions = (torch.cat(part) for part in zip(*parts, strict=True))
                yield latents, actions
                step += 1

    def _buffer(self, number: int) -> LatentDataset:
        """The trajectories of all rounds up to this one, which is acted out if need be."""
        rounds = -(-self._config.buffer // self._config.trajectories)
        kept = [self._round(i) for i in range(max(0, number - rounds + 1), number + 1)]
        most = self._config.buffer * len(self._views)
        latents, actions = (
            torch.cat([part[key] for part in kept])[-most:] for key in ("latents", "actions")
        )
        length = torch.full((len(latents),), latents.shape[1])
        begin = torch.cumsum(length, 0) - length
        return LatentDataset(latents.flatten(0, 1), actions.flatten(0, 1), begin, length)

    def _round(self, number: int) -> dict[str, Tensor]:
        """Latents (B, n, L) and normalised env actions (B, n, A) of one round."""
        path = self._folder / f"round-{number:05d}.safetensors"
        if not path.exists():
            with _frozen(self._agent.model):
                found = self._act_out(np.random.default_rng([self._seed, number]))
            temporary = path.with_suffix(".tmp")
            save_file(found, temporary)
            temporary.replace(path)
        return load_file(path)

    def _act_out(self, rng: np.random.Generator) -> dict[str, Tensor]:
        frameskip, count = self._agent.model.config.frameskip, self._config.trajectories
        start, goal, seeds = self._draw(rng)
        observation: dict[str, Any] = {
            "pixels": start["pixels"],
            "proprio": start["proprio"],
            "goal_pixels": goal["pixels"],
            "goal_proprio": goal["proprio"],
        }
        pixels, proprio, actions = [start["pixels"][:, None]], [start["proprio"][:, None]], []
        states, memory = start["state"], None
        for _ in range(self._config.model_steps):
            _, memory = self._agent.predict(observation, memory)
            # The env actions up to the next frame that the model sees, the first handed out.
            first = memory.position[0] - 1
            taken = memory.queue[:, first : first + frameskip]
            memory = replace(memory, position=np.full(count, first + frameskip))
            frames = self._simulator.play(states, taken, seeds)
            pixels.append(frames.pixels)
            proprio.append(frames.proprio)
            actions.append(taken)
            states = frames.state[:, -1]
            observation |= {"pixels": frames.pixels[:, -1], "proprio": frames.proprio[:, -1]}
        seen = [np.concatenate(part, 1) for part in (pixels, proprio, actions)]
        copies = [self._encoded(view, *seen) for view in self._views]
        return {key: torch.cat([copy[key] for copy in copies]) for key in copies[0]}

    def _encoded(
        self, view: Mirror, pixels: np.ndarray, proprio: np.ndarray, actions: np.ndarray
    ) -> dict[str, Tensor]:
        """Frames (B, n, …) and the env actions between them (B, n-1, A), as a round keeps them."""
        model = self._agent.model
        pixels, proprio, actions = view.pixels(pixels), view.proprio(proprio), view.action(actions)
        latents = encode_frames(model, pixels, proprio)
        taken = torch.from_numpy(actions).to(model.device)
        normalized = model.action_normalizer.normalize(taken).cpu()
        last = torch.zeros_like(normalized[:, :1])
        return {
            "latents": latents.contiguous(),
            "actions": torch.cat([normalized, last], 1).contiguous(),
        }

    def _draw(self, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
        """Starts and goals: frames with pixels, proprio and state, (B, …) each; and the seeds of
        the starts' episodes (B,)."""
        horizon, count = self._agent.config.horizon, self._config.trajectories
        frameskip = self._agent.model.config.frameskip
        windows = self._dataset.windows(horizon + 1, frameskip, self._episodes)
        indices = rng.integers(len(windows), size=count)
        chosen = other = windows.batch(indices)
        if self._config.goals == "random":
            other = windows.batch(rng.integers(len(windows), size=count))
        keys = ("pixels", "proprio", "state")
        start = {key: chosen[key][:, 0].numpy() for key in keys}
        goal = {key: other[key][:, -1].numpy() for key in keys}
        return start, goal, windows.reset_seeds(indices)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """In eval mode and not trained, as `linear.Linear` multiplies faster by such weights."""
    training, trained = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for weight in trained:
            weight.requires_grad_(True)
