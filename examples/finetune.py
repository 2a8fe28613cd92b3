"""Finetunes a world model for gradient-based planning.

A killed run goes on when the same command is given again.

    python examples/finetune.py --method adversarial --model pusht
    python examples/evaluate.py --agent runs/pusht-adversarial/checkpoint
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import gbp_envs  # noqa: F401  (registers gbp/…)
import torch
import tyro

from gbp_agent import AdversarialConfig, FinetuneConfig, OnlineConfig, finetune


@dataclass
class Args:
    method: Literal["offline", "adversarial", "online", "online+adversarial"] = "adversarial"
    """offline: plain training for as long, the control. adversarial: perturbed inputs. online: the
    simulator corrects the planner's own trajectories."""
    model: str = "pusht"
    """What to start from: a shipped name, a folder, or hf://owner/repo."""
    data: Path | None = None
    """Dataset folder; data/MODEL by default, as pretrain.py leaves it."""
    out: Path | None = None
    """Folder of the run; runs/MODEL-METHOD by default. The model is in its `checkpoint`."""
    steps: int = 3000
    """Optimiser steps."""
    windows: int = 256
    """Windows in a batch."""
    horizon: int = 1
    """Model steps that are rolled out and compared; 1 is teacher forcing."""
    learning_rate: float = 1e-4
    """Peak of the schedule."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    latents: Path | None = None
    """File of the data's latents, made if it is not there, so that several runs share it."""
    workers: int | None = None
    """Simulator processes of the online methods; one per processor by default."""
    seed: int = 0
    """Of the batches, the attack and the agent's starts."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to train."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """bfloat16 where the processor has matrix instructions for it, unless told otherwise."""


def main(args: Args) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = dict(vars(args))
    name = Path(args.model).name
    options["data"] = args.data or Path("data") / name
    options["out"] = args.out or Path("runs") / f"{name}-{args.method}"
    finetune(FinetuneConfig(**options))
    print(f"model in {options['out'] / 'checkpoint'}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
