"""Finetuning of a world model's predictor for planning, on latents of the frozen encoder.

Four methods, which differ in two places only: where the batches come from, and whether their
inputs are perturbed.

    method               batches                       inputs
    offline              the dataset                   clean: the control
    adversarial          the dataset                   perturbed      adversarial.py
    online               dataset and simulator         clean          online.py
    online+adversarial   dataset and simulator         perturbed

Source: "Closing the Train-Test Gap in World Models for Gradient-Based Planning", arXiv 2512.09929.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from ..agent import WorldModelMPCAgent
from ..checkpoint import check_replaceable, load_checkpoint, save_checkpoint
from ..data import TrajectoryDataset
from ..data.latents import LatentDataset
from ..data.simulate import Simulator
from ..diagnostics import judge
from ..observations import ObservationKeys
from ..planners import GradientPlanner
from ..planning_settings import with_keys_of
from ..precision import Precision, uses_bfloat16
from ..report import machine
from ..types import Latent
from ..world_model import LatentWorldModel, join
from .adversarial import AdversarialConfig, Parts, add, attack, attack_radii
from .cards import finetuned_card
from .dynamics import pad_history
from .loop import LoopConfig, optimize
from .online import OnlineBatches, OnlineConfig
from .run import claim, report

METHODS = ("offline", "adversarial", "online", "online+adversarial")
BEGINNINGS = 7919
"""Sets the draws of episodes' beginnings apart from the attack's."""


@dataclass(frozen=True)
class FinetuneConfig:
    """Everything that a finetuning run depends on."""

    model: str
    """The parent: a shipped name, a folder, or hf://owner/repo."""
    data: Path
    """Dataset folder."""
    out: Path
    """Folder for states, curves and the final `checkpoint`; a run that was killed goes on when
    started again with the same one."""
    method: Literal["offline", "adversarial", "online", "online+adversarial"] = "adversarial"
    """offline: plain training for as long, the control. adversarial: perturbed inputs. online: the
    simulator corrects the planner's own trajectories."""
    steps: int = 3000
    """Optimiser steps."""
    windows: int = 256
    """Windows in a batch."""
    horizon: int = 1
    """Model steps that are rolled out and compared; 1 is teacher forcing, more feeds predictions
    back. An attack perturbs the first frame and all actions."""
    learning_rate: float = 1e-4
    """Peak of the schedule."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    latents: Path | None = None
    """File of the data's latents, made if it is not there; in `out` by default. Runs with the same
    encoder and data can share it."""
    mirrors: bool = False
    """Learn from mirrored copies of the data and of the planner's trajectories as well, which the
    data's env must allow (`mirror_symmetry`); each copy is encoded."""
    workers: int | None = None
    """Simulator processes of the online methods; one per processor by default."""
    held_out: float = 0.05
    """Share of the episodes that is kept for judging."""
    seed: int = 0
    """Of the batches, the attack and the agent's starts."""
    device: str = "cpu"
    """Where to train."""
    precision: Precision = "auto"
    """bfloat16 where the processor has matrix instructions for it, unless told otherwise."""
    progress: bool = True
    """Show progress bars."""

    def __post_init__(self) -> None:
        for name in ("data", "out", "latents"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, Path(getattr(self, name)))
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        if self.horizon > 1 and self.adversarial.perturb_action == "embedding":
            raise ValueError(
                "perturb_action='embedding' is for horizon=1, "
                f"got horizon={self.horizon}; take 'raw'"
            )
        if self.windows < 1 or self.horizon < 1:
            raise ValueError(
                "windows and horizon must be at least 1, "
                f"got windows={self.windows}, horizon={self.horizon}"
            )
        if "online" in self.method and round(self.online.share * self.windows) == 0:
            raise ValueError(
                f"a share of {self.online.share} of {self.windows} windows is none of the agent's "
                "own; that is method='offline'"
            )


def finetune(
    config: FinetuneConfig,
    env_spec: EnvSpec | None = None,
    keys: ObservationKeys | None = None,
) -> LatentWorldModel:
    """Finetune, judge and save a world model; returns it in eval mode.

    env_spec: `env.spec` of the env that the data were collected with, for the online methods where
        it has wrappers; a dataset knows their names at most.
    keys: of its observations, for the online methods where a dataset that was recorded elsewhere
        does not say which entries are what.

    Raises:
        KeyError, FileNotFoundError, ValueError: model or data cannot be read, the model is for
            another env than the data, or `out` holds another run.
    """
    begun = time.monotonic()
    dataset = TrajectoryDataset(config.data)
    model, planning = load_checkpoint(config.model)
    if model.config.env_id != dataset.metadata["env_id"]:
        raise ValueError(
            f"{config.model} is a model of {model.config.env_id}, {config.data} holds data of "
            f"{dataset.metadata['env_id']}; give data of the same environment"
        )
    claim(config, ignore=("latents", "workers"))
    check_replaceable(config.out / "checkpoint")
    model.to(config.device)
    training, held_out = dataset.split(config.held_out)
    file = config.latents or config.out / "latents.npy"
    latents = LatentDataset.encode(model, dataset, file, config.progress, mirrors=config.mirrors)
    with ExitStack() as stack:
        simulator = None
        if "online" in config.method:
            workers = config.workers or os.cpu_count() or 1
            simulator = stack.enter_context(Simulator.of(dataset, workers, env_spec, keys))
        batches = _batches(config, model, planning, dataset, latents, training, simulator)
        model.predictor.requires_grad_(True)  # an agent freezes its model
        optimize(
            config.method,
            model,
            _Loss(config, model, batches),
            batches,
            LoopConfig(config.steps, config.learning_rate, weight_decay=0.0),
            config.out,
            config.progress,
        )
    metrics = judge(model, dataset, latents, training, held_out, config.seed)
    metrics["minutes"] = round((time.monotonic() - begun) / 60, 1)
    report(config.out, metrics)
    card = finetuned_card(model.config, asdict(config), dataset, metrics, machine())
    planning = with_keys_of(dataset.metadata, planning, keys)
    save_checkpoint(config.out / "checkpoint", model, planning=planning, card=card, half=True)
    return model.eval().requires_grad_(False)


Item = tuple[int, tuple[Tensor, Tensor]]  # optimiser step, (latents, model actions)


def _batches(
    config: FinetuneConfig,
    model: LatentWorldModel,
    planning: dict[str, Any],
    dataset: TrajectoryDataset,
    latents: LatentDataset,
    training: np.ndarray,
    simulator: Simulator | None,
) -> Callable[[int], Iterator[Item]]:
    """First step → the batches from there on."""
    frames, frameskip = model.history + config.horizon, model.config.frameskip
    if simulator is None:
        where = (frames, frameskip, training, config.windows, config.seed)
        return lambda first: enumerate(latents.windows(*where, first), first)
    simulator.check(dataset, training)
    # Which acts its plans out, good or bad: it is there to see what comes of them.
    acting = {"proposals": config.online.proposals, "dead_band": 0.0}
    mpc = {**planning.get("mpc", {}), **acting}
    planner = GradientPlanner(config.online.planner)
    agent = WorldModelMPCAgent.from_settings(
        model, {**planning, "mpc": mpc}, planner, keys=ObservationKeys(), seed=config.seed
    )
    source = OnlineBatches(
        agent,
        dataset,
        latents,
        training,
        simulator,
        config.online,
        config.out / "online",
        config.seed,
    )
    return lambda first: enumerate(source.windows(frames, config.windows, first), first)


class _Loss:
    """Mean squared error of predicted against clean latents, perturbed inputs or not."""

    def __init__(
        self,
        config: FinetuneConfig,
        model: LatentWorldModel,
        batches: Callable[[int], Iterator[Item]],
    ):
        self._config = config
        self._model = model
        self._bfloat16 = uses_bfloat16(config.precision, config.device)
        self._fixed: Parts | None = None
        if "adversarial" in config.method and config.adversarial.radii == "fixed":
            start, actions, _ = self._split(next(batches(0)))
            inputs = Parts(start.visual, start.proprio, self._action_part(actions))
            self._fixed = attack_radii(inputs, config.adversarial)

    def __call__(self, item: Item) -> tuple[Tensor, dict[str, Tensor]]:
        start, actions, target = self._split(item)
        if "adversarial" not in self._config.method:
            return self._error(start, actions, target), {}
        return self._perturbed(item[0], start, actions, target)

    def _split(self, item: Item) -> tuple[Latent, Tensor, Tensor]:
        """First frames, model actions, and the joined latents that follow; some windows look like
        an episode's beginning, as in pre-training."""
        step, window = item
        latents, actions = (part.to(self._model.device) for part in window)
        history, generator = self._model.history, torch.Generator(latents.device)
        generator.manual_seed((self._config.seed + BEGINNINGS) * 1_000_003 + step)
        latents, actions = pad_history(latents, actions, history, generator)
        start = self._model.split(latents[:, :history])
        return start, actions, latents[:, history:]

    def _action_part(self, actions: Tensor) -> Tensor:
        """What is perturbed of the actions."""
        if self._config.adversarial.perturb_action == "raw":
            return actions
        return self._model.embed_actions(actions)

    def _error(self, start: Latent, actions: Tensor, target: Tensor) -> Tensor:
        past = self._model.history - 1
        with torch.autocast(target.device.type, torch.bfloat16, enabled=self._bfloat16):
            predicted = self._model.rollout(start, actions[:, :past], actions[:, past:])
        return (join(predicted).float() - target).square().mean()

    def _perturbed(
        self, step: int, start: Latent, actions: Tensor, target: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self._config.adversarial
        generator = torch.Generator(target.device)
        generator.manual_seed(self._config.seed * 1_000_003 + step)
        embedded = config.perturb_action == "embedding"

        def loss(inputs: Parts) -> Tensor:
            frames = Latent(inputs.visual, inputs.proprio)
            if not embedded:
                return self._error(frames, inputs.action, target)
            return self._embedded_error(frames, inputs.action, target)

        inputs = Parts(start.visual, start.proprio, self._action_part(actions))
        fixed = Parts(*(part.detach() for part in inputs))
        radii = self._fixed or attack_radii(fixed, config)
        perturbation = attack(loss, fixed, radii, config, generator)
        error = loss(add(inputs, perturbation))
        return error, {"visual_radius": radii.visual, "action_radius": radii.action}

    def _embedded_error(self, start: Latent, embedded: Tensor, target: Tensor) -> Tensor:
        with torch.autocast(target.device.type, torch.bfloat16, enabled=self._bfloat16):
            predicted = self._model.predict(start, embedded)
        return (join(predicted).float() - target[:, 0]).square().mean()
