"""The optimisation loop of every training method: resumable, logged, with a progress bar."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

log = logging.getLogger(__name__)

Metrics = dict[str, float]
LossFunction = Callable[[Any], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class LoopConfig:
    """How to optimise.

    steps: optimiser steps. learning_rate: peak, reached after `warmup` of the steps and lowered to
    0 by a cosine. save_seconds: seconds between saved states, what a kill loses at most.
    clip_norm: bound of the gradient's norm.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 1e-4
    warmup: float = 0.05
    clip_norm: float = 1.0
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0:
            raise ValueError(
                "steps must be ≥ 1 and learning_rate > 0, "
                f"got {self.steps} and {self.learning_rate}"
            )


def optimize(
    name: str,
    module: nn.Module,
    loss_function: LossFunction,
    batches: Callable[[int], Iterator[Any]],
    config: LoopConfig,
    folder: Path,
    progress: bool = True,
) -> None:
    """Train the parameters of `module` that require gradients, in place, with AdamW.

    name: of this phase, for the bar, the curves and the state file `FOLDER/NAME.safetensors`.
    loss_function: batch → (loss, metrics to log).
    batches: first step → an iterator of batches from that step on; the batch of a step must depend
        on the step alone, so that a resumed run repeats an uninterrupted one.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    state_file = folder / f"{name}.safetensors"
    first = _restore(state_file, module, optimizer, parameters) if state_file.exists() else 0
    if first >= config.steps:
        module.eval()
        return
    if first:
        log.info("resuming %s at step %d of %d", name, first, config.steps)
    saved = time.monotonic()
    module.train()
    source = batches(first)
    todo, total = range(first, config.steps), config.steps
    bar = tqdm(todo, desc=name, initial=first, total=total, disable=not progress)
    # Of its own, since `purge_step` drops what any phase has written there.
    curves = SummaryWriter(str(folder / "tensorboard" / name), purge_step=first)
    gpus = [p.device for p in parameters[:1] if p.device.type == "cuda"]
    with curves as writer, torch.random.fork_rng(gpus):
        for step in bar:
            torch.manual_seed(step)  # of dropout, which draws from no other generator
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * schedule(step / config.steps, config.warmup)
            loss, metrics = loss_function(next(source))
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"{name}: the loss is {loss.item()} at step {step}; lower the learning rate"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, config.clip_norm)
            optimizer.step()
            if step % 20 == 0 or step == config.steps - 1:
                values = {"loss": loss.item()} | {k: v.item() for k, v in metrics.items()}
                for key, value in values.items():
                    writer.add_scalar(f"{name}/{key}", value, step)
                bar.set_postfix({k: f"{v:.3g}" for k, v in values.items()}, refresh=False)
            if step == config.steps - 1 or time.monotonic() - saved > config.save_seconds:
                _save(state_file, module, optimizer, parameters, step + 1)
                saved = time.monotonic()
    module.eval()


def schedule(progress: float, warmup: float) -> float:
    """Factor of the learning rate at `progress` in [0, 1): linear warm-up, then a cosine to 0."""
    if progress < warmup:
        return (progress + 1e-3) / (warmup + 1e-3)
    share = (progress - warmup) / (1.0 - warmup)
    return 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * share))))


def _save(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    step: int,
) -> None:
    tensors = {f"module.{k}": v.contiguous() for k, v in module.state_dict().items()}
    for number, parameter in enumerate(parameters):
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{number}.{key}"] = value.contiguous()
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"step": json.dumps(step)})
    temporary.replace(path)


def _restore(
    path: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
) -> int:
    """Load a saved state and return the step to go on from."""
    with safe_open(path, framework="pt") as file:
        step = int(json.loads(file.metadata()["step"]))
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    module.load_state_dict(
        {k.removeprefix("module."): v for k, v in tensors.items() if k.startswith("module.")}
    )
    for number, parameter in enumerate(parameters):
        prefix = f"optimizer.{number}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        optimizer.state[parameter] = {
            k: v if k == "step" else v.to(parameter.device) for k, v in state.items()
        }
    return step
