"""Finetunes a world model for gradient-based planning.

A killed run goes on when the same command is given again.

    python examples/finetune.py --method adversarial --model pusht
    python examples/evaluate.py --agent runs/pusht-adversarial/checkpoint
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import gbp_envs  # noqa: F401  (registers gbp/…)
import torch
import tyro

from gbp_agent import FinetuneConfig, finetune


@dataclass(frozen=True)
class Args(FinetuneConfig):
    model: str = "pusht"
    """What to start from: a shipped name, a folder, or hf://owner/repo."""
    data: Path | None = None
    """Dataset folder; data/MODEL by default, as pretrain.py leaves it."""
    out: Path | None = None
    """Folder of the run; runs/MODEL-METHOD by default. The model is in its `checkpoint`."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where to train."""


def main(args: Args) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    name = Path(args.model).name
    data = args.data or Path("data") / name
    out = args.out or Path("runs") / f"{name}-{args.method}"
    finetune(replace(args, data=data, out=out))
    print(f"model in {out / 'checkpoint'}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
