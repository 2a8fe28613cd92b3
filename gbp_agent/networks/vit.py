"""The patch family's networks: timm's encoders, the predictor of tokens, the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blur import gaussian_blur
from .frame_causal import FrameCausalViT, KeysValues
from .linear import Linear

Interpolation = Literal["bilinear", "bicubic", "nearest"]
Placement = Literal["concat", "tokens"]


class PatchEncoder(nn.Module):
    """A timm vision transformer that gives its patch tokens, without class and register tokens.

    Weights are random until they are loaded; see `patch.load_encoder`.

    Args:
        name: a timm model, e.g. "vit_small_patch14_dinov2.lvd142m".
        size: pixels per side that the transformer sees; pictures of another size are resized.
        options: further arguments of timm.create_model, e.g. {"patch_size": 8, "depth": 4}.
        interpolation: of the resizing, with anti-aliasing unless it is "nearest".
        mean, std: per channel, of pictures between 0 and 1.
        blur: standard deviation, px of `size`, of a Gaussian by which pictures on a white ground
            are blurred first; 0 leaves them sharp. Each token then knows what is near its patch,
            and two pictures differ the more, the further their things are apart.
        centered: every token has its mean over some pictures, `center`, taken away.

    Raises:
        KeyError: timm does not know the name.
        ValueError: the model has no grid of patch tokens, or the size does not fit its patches.
    """

    def __init__(
        self,
        name: str,
        size: int,
        options: Mapping[str, Any],
        interpolation: Interpolation = "bilinear",
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        blur: float = 0.0,
        centered: bool = False,
    ):
        import timm  # takes as long to import as all the rest, and no other family needs it

        super().__init__()
        files = [key for key in options if key.startswith(("pretrained", "checkpoint", "cache"))]
        if files:  # a checkpoint of somebody else's must not choose what is fetched and read
            raise ValueError(
                f"encoder_options may not say where weights are ({', '.join(files)}); load them "
                "afterwards with gbp_agent.patch.load_encoder"
            )
        if not timm.is_model(name):
            raise KeyError(f"timm has no model {name!r}; timm.list_models('*vit*') lists its names")
        try:
            network: Any = timm.create_model(name, num_classes=0, img_size=size, **options)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"timm cannot make {name!r} for pictures of {size} px ({error}); give a vision "
                "transformer with patches, such as 'vit_small_patch14_dinov2.lvd142m', and a "
                "multiple of its patch size"
            ) from error
        grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
        if grid is None or not hasattr(network, "num_prefix_tokens"):
            raise ValueError(
                f"timm's {name!r} has no patch tokens; give a vision transformer, such as "
                "'vit_small_patch14_dinov2.lvd142m'"
            )
        if any(size % side for side in network.patch_embed.patch_size):
            raise ValueError(
                f"size must be a multiple of the patch size of {name!r}, "
                f"{network.patch_embed.patch_size}, got {size}"
            )
        self.network: nn.Module = network
        self.size, self.interpolation = size, interpolation
        self.prefix = int(network.num_prefix_tokens)
        self.grid: tuple[int, int] = tuple(grid)
        self.tokens = grid[0] * grid[1]
        self.token_width = int(network.num_features)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.blur = blur
        self.register_buffer("smooth", gaussian_blur(size, blur), persistent=False)
        center = torch.zeros(self.tokens, self.token_width) if centered else None
        self.register_buffer("center", center)

    mean: Tensor
    std: Tensor
    smooth: Tensor
    center: Tensor | None

    def picture(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3) uint8 → what the transformer sees, (N, 3, size, size)."""
        picture = pixels.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0
        if picture.shape[-1] != self.size:
            smooth = self.interpolation != "nearest"
            picture = F.interpolate(
                picture, (self.size, self.size), mode=self.interpolation, antialias=smooth
            )
        if self.blur:
            picture = 1.0 - self.smooth @ (1.0 - picture) @ self.smooth
        return (picture - self.mean) / self.std

    def forward(self, pixels: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Pixels (N, S, S, 3) uint8 → tokens (N, P, D), row by row of the picture.

        hidden: (N, P) bool, patches that are shown as even grounds of the mean color.
        """
        picture = self.picture(pixels)
        if hidden is not None:
            side = self.size // self.grid[0]
            covers = hidden.unflatten(1, self.grid).repeat_interleave(side, 1)
            picture = picture.masked_fill(covers.repeat_interleave(side, 2).unsqueeze(1), 0.0)
        network: Any = self.network
        tokens: Tensor = network.forward_features(picture)[:, self.prefix :]
        return tokens if self.center is None else tokens - self.center


class PatchPredictor(nn.Module):
    """The next frame's tokens and proprioception from T frames and model actions.

    With `placement` "concat" proprioception and action are appended to every token; with "tokens"
    they are two tokens more, and as wide as the others.

    A frame is carried as one tensor, `merge`d from its Latent: (P, D + E) or (P + 1, D). In a
    roll-out each token keeps the proprioception that it predicts for itself, as in DINO-WM; a
    Latent has that of the first one.

    Args:
        tokens, token_width, proprio_width: P, D and E; E = D with "tokens".
        model_action_dim: M. action_width: of its embedding; D with "tokens".
        residual: predict the change of the last frame instead of the next one.
        history and the rest: see FrameCausalViT.
    """

    def __init__(
        self,
        tokens: int,
        token_width: int,
        proprio_width: int,
        model_action_dim: int,
        action_width: int,
        *,
        placement: Placement,
        residual: bool,
        history: int,
        depth: int,
        heads: int,
        head_width: int,
        mlp_width: int,
        dropout: float,
    ):
        super().__init__()
        self.token_width, self.placement = token_width, placement
        self.action_embedding = Linear(model_action_dim, action_width)
        concat = placement == "concat"
        width = token_width + proprio_width + action_width if concat else token_width
        self.carried = width - action_width if concat else width
        self.vit = FrameCausalViT(
            tokens if concat else tokens + 2,
            width,
            history,
            depth,
            heads,
            head_width,
            mlp_width,
            dropout,
        )
        self.change: Linear | None = None
        if residual:
            self.change = Linear(width, self.carried)
            nn.init.zeros_(self.change.weight)
            nn.init.zeros_(self.change.bias)

    def merge(self, visual: Tensor, proprio: Tensor) -> Tensor:
        """(..., P, D) and (..., E) → carried frames."""
        if self.placement == "tokens":
            return torch.cat([visual, proprio.unsqueeze(-2)], -2)
        spread = proprio.unsqueeze(-2).expand(*visual.shape[:-1], proprio.shape[-1])
        return torch.cat([visual, spread], -1)

    def separate(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Carried frames → (..., P, D) and (..., E)."""
        if self.placement == "tokens":
            return frames[..., :-1, :], frames[..., -1, :]
        return frames[..., : self.token_width], frames[..., 0, self.token_width :]

    def embed(self, model_actions: Tensor) -> Tensor:
        """Model actions (N, t, M) → (N, t, action width)."""
        embedded: Tensor = self.action_embedding(model_actions)
        return embedded

    def forward(
        self, frames: Tensor, embedded_actions: Tensor, past: list[KeysValues] | None = None
    ) -> Tensor:
        """Carried frames (N, t, …) and embedded actions (N, t, …) → the next one (N, …).

        past: what `remember` returned for the frames before them.
        """
        found = self.vit(self._tokens(frames, embedded_actions), past)
        if self.placement == "tokens":
            found = found[:, :-1]
        if self.change is not None:
            return frames[:, -1] + self.change(found)  # type: ignore[no-any-return]
        return found[..., : self.carried]  # type: ignore[no-any-return]

    def remember(self, frames: Tensor, embedded_actions: Tensor) -> list[KeysValues]:
        """What later frames see of the first ones (N, c, …) with their actions (N, c, …), c < T."""
        return self.vit.remember(self._tokens(frames, embedded_actions))

    def _tokens(self, frames: Tensor, embedded_actions: Tensor) -> Tensor:
        actions = embedded_actions.unsqueeze(2)
        if self.placement == "tokens":
            return torch.cat([frames, actions], 2)
        return torch.cat([frames, actions.expand(-1, -1, frames.shape[2], -1)], -1)


class PatchDecoder(nn.Module):
    """Patch tokens → a picture: two convolutions over the grid of tokens, then their pixels, before
    a background that is the same in all pictures.

    Args:
        token_width: D. grid: tokens per side. patch: pixels of a token per side.
        width: channels between the convolutions.
    """

    def __init__(self, token_width: int, grid: int, patch: int, width: int):
        super().__init__()
        self.grid = grid
        self.layers = nn.Sequential(
            nn.Conv2d(token_width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 3 * patch**2, 3, padding=1),
            nn.PixelShuffle(patch),
        )
        self.background = nn.Parameter(torch.zeros(3, grid * patch, grid * patch))

    def forward(self, visual: Tensor) -> Tensor:
        """Tokens (N, P, D) → darkness per channel (N, 3, S', S'), 0 white to 1 black."""
        maps = visual.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        objects: Tensor = self.layers(maps)
        return objects + self.background
