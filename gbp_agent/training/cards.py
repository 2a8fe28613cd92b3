"""Model cards: the README.md of a checkpoint folder."""

from __future__ import annotations

import json
from typing import Any

from ..compact import LINEAR, CompactConfig
from ..data import TrajectoryDataset
from ..hub import NO_ADDRESS, front_matter
from ..patch import PatchConfig
from ..world_model import LatentWorldModel, WorldModelConfig

_TEMPLATE = """# World model for {env_id}

{kind}, and {predictor} that predicts
{frameskip} environment steps ahead from {history} frame(s).

```python
from gbp_agent import WorldModelMPCAgent

agent = WorldModelMPCAgent.from_pretrained("{address}")
```

## Data
{origin}; {frames} frames. The last {held_out:.0%} of the episodes are held out for the figures
below.

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
steps: {ratio}; on episodes of the training {seen}.
Effective rank of the {what}: {rank:.1f} of {width}.
"""
_COMPACT = """A compact latent world model: one vector of {latent_dim} numbers per frame of
{image_size} px{how}, beside the z-scored proprioception ({proprio_dim} numbers)"""
_HOW = {
    "keypoints": "",
    "linear": " (principal components of the blurred picture)",
    "chamfer": " (principal components of the blurred picture less its distance field)",
}
_PATCH = """A patch-token world model: {tokens} tokens of {token_width} numbers per frame of
{image_size} px, by a vision transformer that was trained on the frames as a masked autoencoder"""
_FIRST_PHASE = {"compact": {"representation"}, "patch": {"masked"}, "state": set[str]()}
_STATE = "A world model of the state vector: its z-scores ({proprio_dim} numbers)"


def model_card(
    model: LatentWorldModel,
    dataset: TrajectoryDataset,
    settings: dict[str, Any],
    metrics: dict[str, Any],
    machine: str,
) -> str:
    """Markdown from what pre-training knows; closed-loop success is added after evaluation."""
    config = model.config
    hidden = {"data", "out", "progress", "planning"}
    hidden |= {"representation", "masked"} - _FIRST_PHASE[settings["family"]]
    shown = {k: v for k, v in settings.items() if k not in hidden}
    if getattr(config, "encoder", "") in LINEAR:
        fitted = ("blur", "field") if config.encoder == "chamfer" else ("blur",)
        shown["representation"] = {k: settings["representation"][k] for k in fitted}
    rows = "\n".join(f"| {name} | {error:.3g} |" for name, error in metrics["probe"].items())
    predictor = "a residual MLP"
    if isinstance(config, PatchConfig):
        sizes = {"tokens": model.tokens, "token_width": model.token_width}
        kind = _PATCH.format(image_size=config.image_size, **sizes)
        predictor, what, width = "a frame-causal transformer", "tokens", model.token_width
    elif isinstance(config, CompactConfig):
        kind = _COMPACT.format(how=_HOW[config.encoder], **vars(config))
        if config.ensemble_size > 1:
            predictor = f"an ensemble of {config.ensemble_size} residual MLPs"
        if config.push_grid:
            predictor += ", in the frame of each push,"
        what, width = "visual latent", config.latent_dim
    else:
        kind = _STATE.format(**vars(config))
        what, width = "state", config.proprio_dim
    return front_matter(config.env_id) + _TEMPLATE.format(
        kind=kind,
        predictor=predictor,
        what=what,
        width=width,
        env_id=config.env_id,
        frameskip=config.frameskip,
        history=config.history,
        address=NO_ADDRESS,
        origin=_origin(dataset.metadata),
        frames=dataset.frames,
        held_out=settings["held_out"],
        minutes=metrics["minutes"],
        machine=machine,
        settings=json.dumps(shown, indent=1),
        probe=f"| quantity | error |\n|---|---|\n{rows}",
        ratio=_ratios(metrics["prediction"]),
        seen=_ratios(metrics["prediction_training"]),
        rank=metrics["effective_rank"],
    )


def _ratios(errors: dict[str, list[float]]) -> str:
    return ", ".join(f"{v:.3f}" for v in errors["ratio"]) or "not known, as episodes are too short"


def _origin(about: dict[str, Any]) -> str:
    """Where the data are from, by a dataset's metadata."""
    if "source" in about:
        return (
            f"{about['episodes']} episodes of at most {about['steps']} steps of "
            f"`{about['env_id']}`,\nfrom {about['source']}"
        )
    share = about.get("random_share", 0.0)
    chance = f",\nwhich gave way to a random action at {share:.0%} of the steps" if share else ""
    return (
        f"{about['episodes']} episodes of {about['steps']} steps by the behaviour policy of "
        f"`{about['env_id']}`{chance}, reset seeds {about['seed']} to\n"
        f"{about['seed'] + about['episodes'] - 1}"
    )


_FINETUNED = """# World model for {env_id}, finetuned: {method}

The predictor of `{parent}`, finetuned for gradient-based planning; the encoder is the parent's.

```python
from gbp_agent import WorldModelMPCAgent

agent = WorldModelMPCAgent.from_pretrained("{address}")
```

## Data
{origin}{simulator}. The last {held_out:.0%} of the episodes are held out for the figures below.

## Training
{minutes} minutes on {machine}. Settings:
```json
{settings}
```

## Held-out figures
Mean squared error of predicted latents relative to predicting no change, after 1, 2, … model
steps: {ratio}; on episodes of the training {seen}.
"""


def finetuned_card(
    config: WorldModelConfig,
    settings: dict[str, Any],
    dataset: TrajectoryDataset,
    metrics: dict[str, Any],
    machine: str,
) -> str:
    """Markdown from what finetuning knows; closed-loop success is added after evaluation."""
    hidden = {"model", "data", "out", "latents", "workers", "progress"}
    online, adversarial = ("online" in settings["method"], "adversarial" in settings["method"])
    hidden |= {"online"} if not online else set()
    hidden |= {"adversarial"} if not adversarial else set()
    return front_matter(config.env_id, settings["model"]) + _FINETUNED.format(
        parent=settings["model"],
        env_id=config.env_id,
        method=settings["method"],
        address=NO_ADDRESS,
        origin=_origin(dataset.metadata),
        simulator=", and the agent's own in the simulator" if online else "",
        held_out=settings["held_out"],
        minutes=metrics["minutes"],
        machine=machine,
        settings=json.dumps({k: v for k, v in settings.items() if k not in hidden}, indent=1),
        ratio=_ratios(metrics["prediction"]),
        seen=_ratios(metrics["prediction_training"]),
    )
