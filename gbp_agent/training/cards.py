"""Model cards: the README.md of a checkpoint folder."""

from __future__ import annotations

import json
from typing import Any

from ..compact import CompactConfig
from ..data import TrajectoryDataset
from ..vector import VectorConfig
from ..world_model import WorldModelConfig

_TEMPLATE = """---
library_name: gbp_agent
license: mit
tags: [world-model, model-predictive-control, gymnasium]
---
# World model for {env_id}

{kind}, and a residual MLP that predicts
{frameskip} environment steps ahead from {history} frame(s).

```python
from gbp_agent import WorldModelMPCAgent

agent = WorldModelMPCAgent.from_pretrained("PATH OR NAME")
```

## Data
{episodes} episodes of {steps} steps by the behaviour policy of `{env_id}`, reset seeds {first} to
{last}; {frames} frames. The last {held_out:.0%} of the episodes are held out for the figures below.

## Training
{minutes} minutes on {machine}. Settings:
```json
{settings}
```

## Held-out figures
Median error of a small MLP probe from the latent to the simulator's state, in the state's units
(angles in radians):

{probe}

Mean squared error of predicted latents relative to predicting no change, after 1, 2, … model
steps: {ratio}. Effective rank of the {what}: {rank:.1f} of {width}.
"""
_COMPACT = """A compact latent world model: one vector of {latent_dim} numbers per frame of
{image_size} px, beside the z-scored proprioception ({proprio_dim} numbers)"""
_STATE = "A world model of the state vector: its z-scores ({proprio_dim} numbers)"


def model_card(
    config: VectorConfig,
    dataset: TrajectoryDataset,
    settings: dict[str, Any],
    metrics: dict[str, Any],
    machine: str,
) -> str:
    """Markdown from what pre-training knows; closed-loop success is added after evaluation."""
    about = dataset.metadata
    shown = {k: v for k, v in settings.items() if k not in ("data", "out", "progress", "planning")}
    rows = "\n".join(f"| {name} | {error:.3g} |" for name, error in metrics["probe"].items())
    compact = isinstance(config, CompactConfig)
    return _TEMPLATE.format(
        kind=(_COMPACT if compact else _STATE).format(**vars(config)),
        what="visual latent" if compact else "state",
        width=config.latent_dim if isinstance(config, CompactConfig) else config.proprio_dim,
        env_id=config.env_id,
        frameskip=config.frameskip,
        history=config.history,
        episodes=about["episodes"],
        steps=about["steps"],
        first=about["seed"],
        last=about["seed"] + about["episodes"] - 1,
        frames=dataset.frames,
        held_out=settings["held_out"],
        minutes=metrics["minutes"],
        machine=machine,
        settings=json.dumps(shown, indent=1),
        probe=f"| quantity | error |\n|---|---|\n{rows}",
        ratio=", ".join(f"{v:.3f}" for v in metrics["prediction"]["ratio"]),
        rank=metrics["effective_rank"],
    )


_FINETUNED = """---
library_name: gbp_agent
license: mit
tags: [world-model, model-predictive-control, gymnasium]
base_model: {parent}
---
# World model for {env_id}, finetuned: {method}

The predictor of `{parent}`, finetuned for gradient-based planning; the encoder is the parent's.

```python
from gbp_agent import WorldModelMPCAgent

agent = WorldModelMPCAgent.from_pretrained("PATH OR NAME")
```

## Data
{episodes} episodes of {steps} steps by the behaviour policy of `{env_id}`, reset seeds {first} to
{last}{simulator}. The last {held_out:.0%} of the episodes are held out for the figures below.

## Training
{minutes} minutes on {machine}. Settings:
```json
{settings}
```

## Held-out figures
Mean squared error of predicted latents relative to predicting no change, after 1, 2, … model
steps: {ratio}.
"""


def finetuned_card(
    config: WorldModelConfig,
    settings: dict[str, Any],
    dataset: TrajectoryDataset,
    metrics: dict[str, Any],
    machine: str,
) -> str:
    """Markdown from what finetuning knows; closed-loop success is added after evaluation."""
    about = dataset.metadata
    hidden = {"model", "data", "out", "latents", "workers", "progress"}
    online, adversarial = ("online" in settings["method"], "adversarial" in settings["method"])
    hidden |= {"online"} if not online else set()
    hidden |= {"adversarial"} if not adversarial else set()
    return _FINETUNED.format(
        parent=settings["model"],
        env_id=config.env_id,
        method=settings["method"],
        episodes=about["episodes"],
        steps=about["steps"],
        first=about["seed"],
        last=about["seed"] + about["episodes"] - 1,
        simulator=", and the agent's own in the simulator" if online else "",
        held_out=settings["held_out"],
        minutes=metrics["minutes"],
        machine=machine,
        settings=json.dumps({k: v for k, v in settings.items() if k not in hidden}, indent=1),
        ratio=", ".join(f"{v:.3f}" for v in metrics["prediction"]["ratio"]),
    )
