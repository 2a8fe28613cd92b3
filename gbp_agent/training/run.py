"""The folder of a training run: its settings, and the figures at its end."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ..report import write_text

log = logging.getLogger(__name__)


def as_json(config: Any) -> dict[str, Any]:
    """A config dataclass as JSON values."""
    return json.loads(json.dumps(asdict(config), default=str))  # type: ignore[no-any-return]


def claim(config: Any, ignore: Collection[str] = ()) -> None:
    """Write the run's settings into `config.out`, or check that the run there has the same.

    ignore: fields that a resumed run may change, besides `out` and `progress`.

    Raises:
        ValueError: the folder holds a run with other settings.
    """
    path = config.out / "config.json"
    ignored = {"out", "progress", *ignore}
    ours = {key: value for key, value in as_json(config).items() if key not in ignored}
    if path.exists():
        theirs = json.loads(path.read_text())
        odd = sorted(key for key in ours if theirs.get(key) != ours[key])
        if odd:
            raise ValueError(
                f"{config.out} holds a run with other settings ({', '.join(odd)}); "
                "use another folder, or delete this one to start anew"
            )
        return
    write_text(path, json.dumps(ours, indent=2) + "\n")


def report(folder: Path, metrics: dict[str, Any]) -> None:
    """Write metrics.json and the held-out figures to TensorBoard, and log the latter."""
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for name, value in metrics["probe"].items():
            writer.add_scalar(f"held_out/probe {name}", value)
        for step, ratio in enumerate(metrics["prediction"]["ratio"], 1):
            writer.add_scalar("held_out/error against copying", ratio, step)
    ratios = ", ".join(f"{ratio:.3f}" for ratio in metrics["prediction"]["ratio"])
    log.info("held-out error against predicting no change, after 1, 2, … model steps: %s", ratios)
    if metrics["probe"]:
        errors = ", ".join(f"{name} {error:.3g}" for name, error in metrics["probe"].items())
        log.info("held-out median error of a probe from the latent to the state: %s", errors)
