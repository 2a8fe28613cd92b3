"""Pre-training of a world model: from a dataset folder to a checkpoint folder.

1. representation  encoder and decoder, on pixels                       representation.py
                   (a linear encoder: principal.py; patch tokens: masked.py; or another model's)
2. latents         standardised; the whole dataset is encoded once      data/latents.py
                   (pieces of it are kept, for plans to start from: pieces.py)
3. dynamics        the predictor, on cached latents                     dynamics.py
4. initializer     first guesses of plans, on cached latents            initializer.py
5. judge           probe, spectrum, multi-step error on held-out episodes  diagnostics.py
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..checkpoint import FAMILIES, check_replaceable, load_checkpoint, save_checkpoint
from ..compact import LINEAR, CompactConfig, CompactWorldModel
from ..data import TrajectoryDataset, evenly_chosen
from ..data.latents import LatentDataset
from ..data.mirrors import mirrors_of
from ..diagnostics import judge
from ..networks import initialize
from ..normalize import ActionNormalizer, Standardizer
from ..patch import PatchConfig, PatchWorldModel
from ..planning_settings import with_keys_of
from ..precision import Precision, uses_bfloat16
from ..report import machine
from ..vector import StateConfig, StateWorldModel
from ..world_model import LatentWorldModel
from .cards import model_card
from .dynamics import DynamicsConfig, train_dynamics
from .initializer import InitializerConfig, train_initializer
from .masked import MaskedConfig, train_patch_representation
from .pieces import keep_proposals, with_proposals
from .principal import fit_principal_components
from .representation import RepresentationConfig, train_representation
from .run import as_json, claim, report


@dataclass(frozen=True)
class PretrainConfig:
    """Everything that a pre-training run depends on.

    data: dataset folder. out: folder for states, curves and the final `checkpoint`; a run that
        was killed goes on when started again with the same `out`.
    family: "compact" learns one vector per picture; "patch" a small vision transformer's patch
        tokens, with `masked` for the first phase instead of `representation`; "state" learns from
        the proprioception alone, without a first phase.
    model: fields of CompactConfig, PatchConfig or StateConfig that are not read off the data, e.g.
        {"latent_dim": 32}.
    encoder_of: a finished model (a shipped name, a folder, hf://owner/repo) whose encoder, decoder
        and normalisation are taken over instead of the first phase; `model` must say the same of
        them.
    whitening: 0 keeps the shape of the latent distribution, 1 gives each principal direction unit
        variance; the mean variance is 1 in any case.
    planning: settings that the agent will take up: {"mpc": …, "objective": …, "planners": …}, and
        as "open_loop" which of them differ for plans that are acted out, {"gradient.steps": …}.
    mirrors: the predictor learns from mirrored copies of the data too, which the data's env must
        allow (`mirror_symmetry`); each copy is encoded.
    held_out: share of the episodes that is kept for judging.
    precision: "bf16" computes the networks in bfloat16, "fp32" does not, "auto" does where the
        processor has matrix instructions for it.
    """

    data: Path
    out: Path
    family: Literal["compact", "patch", "state"] = "compact"
    model: dict[str, Any] = field(default_factory=dict)
    representation: RepresentationConfig = field(default_factory=RepresentationConfig)
    masked: MaskedConfig = field(default_factory=MaskedConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    initializer: InitializerConfig = field(default_factory=InitializerConfig)
    encoder_of: str | None = None
    whitening: float = 0.0
    planning: dict[str, Any] = field(default_factory=dict)
    mirrors: bool = False
    held_out: float = 0.05
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("data", "out"):
            object.__setattr__(self, name, Path(getattr(self, name)))
        if self.family not in FAMILIES:
            raise ValueError(f"family is {self.family!r}, expected one of {sorted(FAMILIES)}")


def pretrain(config: PretrainConfig) -> LatentWorldModel:
    """Train, judge and save a world model; returns it in eval mode.

    Raises:
        KeyError, FileNotFoundError, ValueError: the data or the model with the encoder cannot be
            read or do not fit, or `out` holds another run.
    """
    begun = time.monotonic()
    dataset = TrajectoryDataset(config.data)
    training, held_out = dataset.split(config.held_out)
    model = _build(config, dataset, training)
    claim(config, ignore=("planning",))  # a folder with settings that do not fit is nobody's
    check_replaceable(config.out / "checkpoint")
    bfloat16 = uses_bfloat16(config.precision, config.device)
    how = (config.out, config.seed, bfloat16, config.progress)
    if config.encoder_of is not None:
        take_encoder(model, config.encoder_of)
    elif isinstance(model, CompactWorldModel):
        if model.config.encoder in LINEAR:
            blur, distance = config.representation.blur, config.representation.field
            fit_principal_components(model, dataset, training, blur, distance, config.progress)
        else:
            train_representation(model, dataset, training, config.representation, *how)
        sample = evenly_chosen(training, 200)
        standardize_latents(model, dataset, sample, config.whitening)
    elif isinstance(model, PatchWorldModel):
        train_patch_representation(model, dataset, training, config.masked, *how)
    latents = LatentDataset.encode(
        model, dataset, config.out / "latents.npy", config.progress, mirrors=config.mirrors
    )
    keep_proposals(model, latents, training, config.seed)
    train_dynamics(model, latents, training, config.dynamics, *how)
    train_initializer(model, latents, training, config.initializer, *how)
    metrics = judge(model, dataset, latents, training, held_out, config.seed)
    metrics["minutes"] = round((time.monotonic() - begun) / 60, 1)
    report(config.out, metrics)
    card = model_card(model, dataset, as_json(config), metrics, machine())
    planning = with_keys_of(dataset.metadata, config.planning)
    save_checkpoint(config.out / "checkpoint", model, planning=planning, card=card, half=True)
    return model.eval().requires_grad_(False)


def take_encoder(model: LatentWorldModel, source: str) -> None:
    """Copy all that the later phases do not train from the model `source`, in place.

    Raises:
        KeyError, FileNotFoundError: there is no such model.
        ValueError: its encoder has another shape.
    """
    trained_later = ("predictor.", "initializer.", "proposal")
    other, _ = load_checkpoint(source)
    own, given = (
        {k: v for k, v in m.state_dict().items() if not k.startswith(trained_later)}
        for m in (model, other)
    )
    odd = sorted(
        key
        for key in own.keys() | given.keys()
        if key not in own or key not in given or own[key].shape != given[key].shape
    )
    if odd:
        raise ValueError(
            f"the encoder of {source} is not of the shape that `model` asks for: {', '.join(odd)}"
        )
    model.load_state_dict(given, strict=False)


@torch.no_grad()
def standardize_latents(
    model: CompactWorldModel, dataset: TrajectoryDataset, episodes: np.ndarray, whitening: float
) -> None:
    """Centre the visual latents, scale them to a mean variance of 1, and whiten them in part.

    An affine map of the latents is folded into the encoder's last and the decoder's first layer,
    so nothing but the coordinates changes.
    """
    from ..data.latents import encode_frames

    width = model.config.latent_dim
    pixels, proprio = (dataset.array(key, episodes) for key in ("pixels", "proprio"))
    latents = encode_frames(model, pixels, proprio)[:, :width].double()
    mean = latents.mean(0)
    eigenvalues, basis = torch.linalg.eigh(torch.cov(latents.T))
    floor = eigenvalues.max() * 1e-6
    spread = eigenvalues.clamp(min=floor)
    gain = spread ** (-whitening / 2)
    gain = gain / (gain.square() * spread).mean().sqrt()
    forward = gain[:, None] * basis.T
    backward = basis / gain[None]
    head, entry = model.encoder.head, model.decoder.entry
    device = head.weight.device
    weight, bias = head.weight.double().cpu(), head.bias.double().cpu()
    head.weight.copy_((forward @ weight).to(device))
    head.bias.copy_((forward @ (bias - mean)).to(device))
    visual = entry.weight[:, :width].double().cpu()
    entry.bias.add_((visual @ mean).float().to(device))
    entry.weight[:, :width] = (visual @ backward).float().to(device)


@torch.no_grad()
def draw_positions(model: PatchWorldModel, generator: torch.Generator) -> None:
    """Draw what is no layer's weight anew: embeddings of positions, and tokens without a patch."""
    for name, weight in model.named_parameters():
        if name.rpartition(".")[2] in ("pos_embed", "cls_token", "reg_token", "position"):
            weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))


@torch.no_grad()
def keep_proprioception(model: PatchWorldModel) -> None:
    """Embed proprioception as it is, with zeros behind: an embedding that was trained with the
    predictor could make itself easy to predict by shrinking.

    Raises:
        ValueError: the embedding is too narrow.
    """
    embedding, numbers = model.proprio_embedding, model.config.proprio_dim
    if isinstance(embedding, nn.Identity):
        return
    if embedding.out_features < numbers:
        raise ValueError(
            f"{numbers} numbers of proprioception do not fit {embedding.out_features}; give "
            "proprio_width=0"
        )
    nn.init.eye_(embedding.weight)
    nn.init.zeros_(embedding.bias)


def _build(
    config: PretrainConfig, dataset: TrajectoryDataset, training: np.ndarray
) -> LatentWorldModel:
    env_id = dataset.metadata["env_id"]
    first = dataset.episode(0)
    common: dict[str, Any] = {
        "env_id": env_id,
        "proprio_dim": first["proprio"].shape[1],
        "action_low": tuple(dataset.metadata["action_low"]),
        "action_high": tuple(dataset.metadata["action_high"]),
        **config.model,
    }
    statistics = (
        ActionNormalizer.fit(dataset.taken_actions(training)),
        Standardizer.fit(dataset.array("proprio", training)),
    )
    model: LatentWorldModel
    lengths = dataset.episodes[training, 2]
    copies = len(mirrors_of(dataset.metadata)) if config.mirrors else 1
    if config.family == "state":
        shape = with_proposals(StateConfig(**common), lengths, copies)
        model = StateWorldModel(shape, *statistics)
    elif not first["pixels"].shape[1]:
        raise ValueError(f"{config.data} holds no pictures; give family='state'")
    elif config.family == "patch":
        size = first["pixels"].shape[1]
        patches = PatchConfig(**{"encoder_size": size, **common}, image_size=size)
        model = PatchWorldModel(with_proposals(patches, lengths, copies), *statistics)
    else:
        compact = CompactConfig(**common, image_size=first["pixels"].shape[1])
        model = CompactWorldModel(with_proposals(compact, lengths, copies), *statistics)
    generator = torch.Generator().manual_seed(config.seed)
    initialize(model, generator)
    if isinstance(model, PatchWorldModel):
        draw_positions(model, generator)
        keep_proprioception(model)
    return model.to(config.device)
