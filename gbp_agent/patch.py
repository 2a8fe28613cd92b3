"""The patch-token world model: a frozen vision transformer's tokens, and a transformer over them.

encode  pixels → PatchEncoder → P tokens; proprioception → z-scores → a linear map
rollout T frames of tokens and model actions → PatchPredictor → the next frame, H times
decode  tokens → PatchDecoder → a picture, for people

Architecture: DINO-WM (arXiv 2411.04983).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .networks import PatchDecoder, PatchEncoder, PatchPredictor
from .networks.frame_causal import KeysValues
from .networks.vit import Interpolation, Placement
from .normalize import ActionNormalizer, Standardizer
from .precision import cast_weights
from .types import Latent
from .world_model import LatentWorldModel, WorldModelConfig, checkpointed, repeat_rows

WORKING_MEMORY = {"cpu": 2**27}
"""Bytes that roll-outs without gradients may take beside the weights; 2**30 on other devices. A
plan of DINO-WM's model keeps hundreds of tokens busy, and on a processor, where large tensors are
fetched from the system anew each time, 46 at once take a fifth longer than 5."""

DINO = "vit_small_patch14_dinov2.lvd142m"


@dataclass(frozen=True)
class PatchConfig(WorldModelConfig):
    """Shape of a patch-token world model; WorldModelConfig has the rest.

    encoder, encoder_size, encoder_options, interpolation, pixel_mean, pixel_std, blur, centered:
        see PatchEncoder.
    proprio_width: E, width of the embedded proprioception; 0 takes the z-scores as they are.
    action_width: of an embedded model action.
    placement, residual, depth, heads, head_width, mlp_width, dropout: see PatchPredictor.
    decoder_width: see PatchDecoder; 0 leaves it out.

    The defaults are DINO-WM's.
    """

    image_size: int = 224
    history: int = 3
    encoder: str = DINO
    encoder_size: int = 196
    encoder_options: dict[str, Any] = field(default_factory=dict)
    interpolation: Interpolation = "bilinear"
    pixel_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    blur: float = 0.0
    centered: bool = False
    proprio_width: int = 10
    action_width: int = 10
    placement: Placement = "concat"
    residual: bool = False
    depth: int = 6
    heads: int = 16
    head_width: int = 64
    mlp_width: int = 2048
    dropout: float = 0.1
    decoder_width: int = 0

    _may_be_zero: ClassVar[tuple[str, ...]] = (
        *WorldModelConfig._may_be_zero,
        "proprio_width",
        "decoder_width",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pixel_mean", "pixel_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, value, choices in (
            ("placement", self.placement, ("concat", "tokens")),
            ("interpolation", self.interpolation, ("bilinear", "bicubic", "nearest")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {choices}, got {value!r}")
        if self.blur < 0:
            raise ValueError(f"blur must be at least 0, got {self.blur}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in 0…1, got {self.dropout}")


class PatchWorldModel(LatentWorldModel):
    """A world model with P patch tokens per frame; arguments as for LatentWorldModel.

    Its encoder's weights are random until a checkpoint or `load_encoder` gives others or `pretrain`
    trains them; finetuning does not change them.
    """

    config: PatchConfig
    encoder: PatchEncoder
    predictor: PatchPredictor

    def __init__(
        self,
        config: PatchConfig,
        action_normalizer: ActionNormalizer | None = None,
        proprio_normalizer: Standardizer | None = None,
    ):
        encoder = PatchEncoder(
            config.encoder,
            config.encoder_size,
            config.encoder_options,
            config.interpolation,
            config.pixel_mean,
            config.pixel_std,
            config.blur,
            config.centered,
        ).requires_grad_(False)
        tokens, width = encoder.tokens, encoder.token_width
        alike = config.placement == "tokens"
        proprio_width = width if alike else config.proprio_width or config.proprio_dim
        decoder: nn.Module = nn.Identity()
        if config.decoder_width:
            patch = config.encoder_size // encoder.grid[0]
            decoder = PatchDecoder(width, encoder.grid[0], patch, config.decoder_width)
        super().__init__(
            config,
            action_normalizer,
            proprio_normalizer,
            encoder=encoder,
            predictor=PatchPredictor(
                tokens,
                width,
                proprio_width,
                config.model_action_dim,
                width if alike else config.action_width,
                placement=config.placement,
                residual=config.residual,
                history=config.history,
                depth=config.depth,
                heads=config.heads,
                head_width=config.head_width,
                mlp_width=config.mlp_width,
                dropout=config.dropout,
            ),
            decoder=decoder,
            tokens=tokens,
            token_width=width,
            proprio_width=proprio_width,
        )
        embeds = alike or config.proprio_width
        self.proprio_embedding = (
            nn.Linear(config.proprio_dim, proprio_width) if embeds else nn.Identity()
        )

    @property
    def rollouts_at_once(self) -> int:
        # What a layer holds of one plan: tokens, queries, keys and values, their copies by head,
        # what attention finds; or the hidden units before and after their activation.
        shape, vit = self.config, self.predictor.vit
        tokens, width = vit.position.shape[1:]
        of_token = 4 * width + max(8 * shape.heads * shape.head_width, 2 * shape.mlp_width)
        most = WORKING_MEMORY.get(self.device.type, 2**30)
        return max(1, most // (4 * shape.history * tokens * of_token))

    def encode(self, pixels: Tensor, proprio: Tensor) -> Latent:
        visual = self.encoder(pixels.flatten(0, -4))
        embedded = self.proprio_embedding(self.proprio_normalizer.normalize(proprio))
        return Latent(visual.unflatten(0, pixels.shape[:-3]), embedded)

    def rollout(
        self,
        start: Latent,
        past_actions: Tensor,
        model_actions: Tensor,
        *,
        checkpoint_activations: bool = False,
    ) -> Latent:
        remembered = self._remember(start, past_actions)
        return self._unroll(start, remembered, {}, checkpoint_activations, model_actions)

    def rollouts_from(
        self, start: Latent, past_actions: Tensor, *, checkpoint_activations: bool = False
    ) -> Callable[[Tensor], Latent]:
        """`rollout` from these frames as a function of the plans alone, to be called many times in
        a decision: what no plan changes is computed here, once, and is not differentiated."""
        with torch.no_grad():
            remembered = self._remember(start, past_actions)
            weights = cast_weights(self.predictor, self.device)
        return partial(self._unroll, start, remembered, weights, checkpoint_activations)

    def _remember(self, start: Latent, past_actions: Tensor) -> list[list[KeysValues]]:
        """What the predictor remembers of the seen frames whose actions are past, for each model
        step after which some of them are still within the history.

        They are the same for all plans of a start and depend on none of them.
        """
        seen = self.predictor.merge(*start)[:, :-1]
        embedded = self.predictor.embed(past_actions)
        firsts = range(seen.shape[1])
        return [self.predictor.remember(seen[:, i:], embedded[:, i:]) for i in firsts]

    def _unroll(
        self,
        start: Latent,
        remembered: list[list[KeysValues]],
        weights: dict[str, Tensor],
        checkpoint_activations: bool,
        model_actions: Tensor,
    ) -> Latent:
        """Frames that follow the last one of `start`, given what is remembered of the others.

        weights: to take instead of the predictor's, by their names in it.
        """
        next_frame: Callable[..., Tensor] = partial(self._next_frame, weights)
        if checkpoint_activations:
            next_frame = checkpointed(next_frame, self.training)
        last = Latent(*(part[:, -1] for part in start))
        embedded = self.predictor.embed(model_actions)
        frames = [repeat_rows(self.predictor.merge(*last), len(model_actions) // len(last.visual))]
        for step in range(model_actions.shape[1]):
            past = remembered[step] if step < len(remembered) else None
            moving = slice(max(0, step + 1 - self.history), step + 1)
            frames.append(next_frame(past, embedded[:, moving], *frames[moving]))
        return Latent(*self.predictor.separate(torch.stack(frames[1:], 1)))

    def _next_frame(
        self,
        weights: dict[str, Tensor],
        past: list[KeysValues] | None,
        embedded: Tensor,
        *frames: Tensor,
    ) -> Tensor:
        """Carried frames (N, …), oldest first, their embedded actions (N, t, ·), and what the
        predictor remembers of those before → the next one (N, …)."""
        given = torch.stack(frames, 1), embedded, past
        found: Tensor = (
            functional_call(self.predictor, weights, given) if weights else self.predictor(*given)
        )
        return found

    def embed_actions(self, model_actions: Tensor) -> Tensor:
        return self.predictor.embed(model_actions)

    def predict(self, start: Latent, embedded_actions: Tensor) -> Latent:
        frame = self.predictor(self.predictor.merge(*start), embedded_actions)
        return Latent(*self.predictor.separate(frame))

    @property
    def can_decode(self) -> bool:
        return isinstance(self.decoder, PatchDecoder)

    @torch.no_grad()
    def decode(self, latent: Latent) -> Tensor:
        """As for LatentWorldModel.

        Raises:
            ValueError: the model has no decoder.
        """
        if not isinstance(self.decoder, PatchDecoder):
            raise ValueError(
                "this model has no decoder (decoder_width is 0), so what it imagines cannot be "
                "shown; train one, or record the video without imagination"
            )
        darkness = self.decoder(latent.visual.flatten(0, -3))
        if darkness.shape[-1] != self.config.image_size:
            size = (self.config.image_size,) * 2
            darkness = F.interpolate(darkness, size, mode="bilinear", antialias=True)
        pixels = (255 * (1 - darkness.clamp(0, 1))).round().to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).unflatten(0, latent.visual.shape[:-2])


def load_encoder(model: PatchWorldModel, weights: Path | None = None) -> None:
    """Give the encoder its published weights, in place.

    weights: a local file of them, .safetensors or as torch.save writes a state dict (read with
        `weights_only=True`); None takes timm's from the Hugging Face hub, or its local cache.

    Raises:
        FileNotFoundError: the file is not there, or there is neither network nor cache.
        ValueError: the weights do not fit.
    """
    import timm  # see PatchEncoder
    from timm.models import load_state_dict

    config = model.config
    overlay = None
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(
            f"{weights} is not there; give a file of {config.encoder}'s weights"
        )
    try:
        if weights is not None:
            read = load_state_dict(str(weights), weights_only=True)
            overlay = {"state_dict": read, "hf_hub_id": None, "url": ""}
        loaded = timm.create_model(
            config.encoder,
            pretrained=True,
            pretrained_cfg_overlay=overlay,
            num_classes=0,
            img_size=config.encoder_size,
            **config.encoder_options,
        )
    except OSError as error:
        raise FileNotFoundError(
            f"the weights of {config.encoder} cannot be fetched ({type(error).__name__}); "
            "give a local file of them: load_encoder(model, Path('weights.safetensors'))"
        ) from error
    except (RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{weights or 'timm has weights that'} do not fit {config.encoder} with "
            f"{config.encoder_options}: {str(error).splitlines()[0]}"
        ) from error
    model.encoder.network.load_state_dict(loaded.state_dict())
