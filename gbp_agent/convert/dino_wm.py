"""Checkpoints of DINO-WM and of its forks (robust-world-model-planning) as patch models.

A DINO-WM run leaves `hydra.yaml` and `checkpoints/model_latest.pth`, a pickled dict of modules.
Formats: github.com/gaoyuezhou/dino_wm and github.com/qw3rtman/robust-world-model-planning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from ..checkpoint import save_checkpoint
from ..data import TrajectoryDataset
from ..normalize import ActionNormalizer, Standardizer
from ..patch import PatchConfig, PatchWorldModel, load_encoder
from .unpickle import Inert, load_inert, state_dict

# Environment names there → ids, bounds of the actions and numbers of proprioception here.
ENVS = {
    "pusht": ("gbp/PushT-v0", 1.0, 4),
    "point_maze": ("gbp/PointMaze-v0", 1.0, 4),
    "wall": ("gbp/Wall-v0", 2.0, 2),
}
ENCODERS = {
    "dinov2_vits14": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_vitb14": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_vitl14": "vit_large_patch14_dinov2.lvd142m",
}
# PushT's statistics as DINO-WM publishes them; actions divided by 100, as ours are.
PUSHT_ACTION = ([-0.0087, 0.0068], [0.2019, 0.2002])
PUSHT_PROPRIO = (
    [236.6155, 264.5674, -2.93032027, 2.54307914],
    [101.1202, 87.0112, 74.84556075, 74.14009094],
)
_CARD = """---
library_name: gbp_agent
tags: [world-model, model-predictive-control, gymnasium]
---
# World model for {env_id}, converted

From the DINO-WM checkpoint `{name}`, epoch {epoch}: encoder {encoder}, {tokens} tokens of {width},
history {history}, frameskip {frameskip}. Not evaluated here; its licence is that of its source.
"""


def convert_checkpoint(
    path: Path, out: Path, data: Path | None = None, encoder: Path | None = None
) -> PatchWorldModel:
    """Write a DINO-WM checkpoint as one of ours, and return the model.

    path: the checkpoint, or the run's folder. out: folder to write.
    data: dataset folder whose statistics normalise actions and proprioception; needed but for
        PushT, whose published ones are known.
    encoder: file of the encoder's weights, for a checkpoint that has none; timm's published ones
        are fetched if it is not given.

    Raises:
        FileNotFoundError: checkpoint, hydra.yaml or encoder weights are not there.
        ValueError: the file holds something else, or parts that do not fit together.
    """
    if path.is_dir():
        path = path / "checkpoints" / "model_latest.pth"
    settings = _read_settings(path)
    saved = load_inert(path)
    wanted = ("predictor", "proprio_encoder", "action_encoder")
    for name in wanted:
        if not isinstance(saved, dict) or not isinstance(saved.get(name), Inert):
            raise ValueError(
                f"{path} has no {name!r}, expected a dict of modules with {', '.join(wanted)}"
            )
    actions, proprio = _statistics(settings["env"], data)
    config = _config(settings, saved["predictor"], path)
    model = PatchWorldModel(config, actions, proprio)
    if config.history * model.predictor.vit.position.shape[1] != _positions(saved["predictor"]):
        raise ValueError(
            f"{path} has {_positions(saved['predictor'])} positions, expected "
            f"{config.history} frames of {model.predictor.vit.position.shape[1]} tokens"
        )
    _load(model, saved, path)
    if isinstance(saved.get("encoder"), Inert):
        _load_encoder(model, state_dict(saved["encoder"]), path)
    else:
        load_encoder(model, encoder)
    card = _CARD.format(
        env_id=config.env_id,
        name=path.name,
        epoch=saved.get("epoch", "unknown"),
        encoder=config.encoder,
        tokens=model.tokens,
        width=model.token_width,
        history=config.history,
        frameskip=config.frameskip,
    )
    save_checkpoint(out, model, planning=_planning(config), card=card)
    return model.eval().requires_grad_(False)


def _read_settings(path: Path) -> dict[str, Any]:
    for folder in (path.parent, path.parent.parent):
        file = folder / "hydra.yaml"
        if file.is_file():
            break
    else:
        raise FileNotFoundError(
            f"no hydra.yaml beside {path} or one folder up; copy the run's own there"
        )
    read = yaml.safe_load(file.read_text()) or {}
    env = read.get("env", {})
    name = env.get("name") if isinstance(env, dict) else env
    if name not in ENVS:
        raise ValueError(f"{file} is for env {name!r}, expected one of {', '.join(ENVS)}")
    for key in ("num_action_repeat", "num_proprio_repeat", "num_pred"):
        if read.get(key, 1) != 1:
            raise ValueError(f"{file} has {key}={read[key]}, only 1 can be converted")
    encoder = read.get("encoder", {})
    if encoder.get("name") not in ENCODERS or encoder.get("feature_key") != "x_norm_patchtokens":
        raise ValueError(
            f"{file} has encoder {encoder.get('name')!r} with {encoder.get('feature_key')!r}, "
            f"expected x_norm_patchtokens of one of {', '.join(ENCODERS)}"
        )
    return {**read, "env": name, "encoder": encoder["name"]}


def _config(settings: dict[str, Any], predictor: Inert, path: Path) -> PatchConfig:
    weights = state_dict(predictor)
    layers = [k for k in weights if k.endswith(".0.to_qkv.weight")]
    attention = _child(predictor, "transformer", "layers", "0", "0")
    parts = {"pos_embedding", "transformer.norm.weight", "transformer.layers.0.1.net.1.weight"}
    heads = attention.get("heads") if attention is not None else None
    if not isinstance(heads, int) or not layers or not parts <= weights.keys():
        raise ValueError(f"{path} has a predictor that is not DINO-WM's ViTPredictor")
    env_id, bound, proprio_dim = ENVS[settings["env"]]
    image_size = int(settings.get("img_size", 224))
    dropout = _child(predictor, "dropout")
    return PatchConfig(
        env_id=env_id,
        proprio_dim=proprio_dim,
        action_low=(-bound,) * 2,
        action_high=(bound,) * 2,
        image_size=image_size,
        frameskip=int(settings.get("frameskip", 5)),
        history=int(settings.get("num_hist", 3)),
        proposals=0,
        encoder=ENCODERS[settings["encoder"]],
        encoder_size=image_size // 16 * 14,
        proprio_width=int(settings.get("proprio_emb_dim", 10)),
        action_width=int(settings.get("action_emb_dim", 10)),
        placement="concat" if settings.get("concat_dim", 1) == 1 else "tokens",
        depth=len(layers),
        heads=heads,
        head_width=weights[layers[0]].shape[0] // (3 * heads),
        mlp_width=weights["transformer.layers.0.1.net.1.weight"].shape[0],
        dropout=float(dropout.get("p", 0.0)) if dropout else 0.0,
    )


def _child(module: Inert | None, *names: str) -> Inert | None:
    for name in names:
        module = (module.get("_modules") or {}).get(name) if module is not None else None
    return module


def _positions(predictor: Inert) -> int:
    return int(state_dict(predictor)["pos_embedding"].shape[1])


def _statistics(env: str, data: Path | None) -> tuple[ActionNormalizer, Standardizer]:
    if data is not None:
        known = TrajectoryDataset(data)
        return (
            ActionNormalizer.fit(known.taken_actions()),
            Standardizer.fit(known.array("proprio")),
        )
    if env != "pusht":
        raise ValueError(
            f"the statistics of {env}'s data are not known; convert its data too and give the "
            "folder (--data)"
        )
    action, proprio = (
        tuple(torch.tensor(part) for part in pair) for pair in (PUSHT_ACTION, PUSHT_PROPRIO)
    )
    return ActionNormalizer(*action), Standardizer(*proprio)


def _load(model: PatchWorldModel, saved: dict[str, Inert], path: Path) -> None:
    """Copy predictor and embeddings."""
    theirs = state_dict(saved["predictor"])
    vit = model.predictor.vit
    names = {"0.norm": "attention.{}.norm", "0.to_qkv": "attention.{}.to_qkv"}
    names |= {"0.to_out.0": "attention.{}.out"}
    names |= {f"1.net.{i}": f"mlp.{{}}.{i}" for i in (0, 1, 4)}
    position = theirs["pos_embedding"].unflatten(1, vit.position.shape[:2])[0]
    wanted = {"position": position}
    wanted |= {f"norm.{k}": theirs[f"transformer.norm.{k}"] for k in ("weight", "bias")}
    for layer in range(model.config.depth):
        for source, target in names.items():
            for kind in ("weight", "bias"):
                key = f"transformer.layers.{layer}.{source}.{kind}"
                if key in theirs:
                    wanted[f"{target.format(layer)}.{kind}"] = theirs[key]
    try:
        vit.load_state_dict(wanted)
        for module, embedding in (
            (saved["action_encoder"], model.predictor.action_embedding),
            (saved["proprio_encoder"], model.proprio_embedding),
        ):
            conv = state_dict(module)
            weight, bias = conv["patch_embed.weight"].squeeze(-1), conv["patch_embed.bias"]
            embedding.load_state_dict({"weight": weight, "bias": bias})
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit its hydra.yaml: {reason}") from error


def _load_encoder(model: PatchWorldModel, theirs: dict[str, Tensor], path: Path) -> None:
    """Copy a DINOv2 encoder, its position embeddings resized as DINOv2 does on the fly."""
    weights = {k.removeprefix("base_model."): v for k, v in theirs.items()}
    weights = {k: v for k, v in weights.items() if k != "mask_token"}
    side = model.encoder.grid[0]
    position = weights.get("pos_embed")
    if position is not None and position.shape[1] != 1 + side**2:
        token, grid = position[:, :1], position[:, 1:]
        before = round(grid.shape[1] ** 0.5)
        grid = grid.transpose(1, 2).unflatten(2, (before, before))
        # DINOv2 adds 0.1 to the wanted size, which shifts the samples a little.
        factor = (side + 0.1) / before
        grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
        weights["pos_embed"] = torch.cat([token, grid.flatten(2).transpose(1, 2)], 1)
    try:
        model.encoder.network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} has an encoder that is not {model.config.encoder}: {reason}"
        ) from error


def _planning(config: PatchConfig) -> dict[str, Any]:
    """As published: Adam from zeros, cost of the last frame; no velocities in PointMaze's."""
    weight = 0.0 if "PointMaze" in config.env_id else 1.0
    return {
        "mpc": {"horizon": 5},
        "objective": {"frames": "last", "proprio_weight": weight},
        "planners": {
            "gradient": {"learning_rate": 0.2, "steps": 100, "init": "zeros"},
            "cem": {"samples": 300, "iterations": 30, "elites": 30, "init": "zeros"},
        },
    }
