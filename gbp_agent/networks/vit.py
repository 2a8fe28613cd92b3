"""Vision transformers of the patch family: timm's encoders, a predictor over frames of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    ):
        super().__init__()
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

    mean: Tensor
    std: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, S, S, 3) uint8 → tokens (N, P, D), row by row of the picture."""
        picture = pixels.permute(0, 3, 1, 2).to(self.mean.dtype) / 255.0
        if picture.shape[-1] != self.size:
            smooth = self.interpolation != "nearest"
            picture = F.interpolate(
                picture, (self.size, self.size), mode=self.interpolation, antialias=smooth
            )
        network: Any = self.network
        tokens: Tensor = network.forward_features((picture - self.mean) / self.std)
        return tokens[:, self.prefix :]


KeysValues = tuple[Tensor, Tensor]
"""Keys and values (N, heads, c·P, d) of c frames."""


class Attention(nn.Module):
    """Multi-head attention, pre-norm; tokens see their own frame and earlier ones."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.to_qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, wanted: int, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Tokens (N, t, P, W) → what is added to those of the last `wanted` frames, (N, wanted, P,
        W), and the keys and values of all. past: those of the frames before."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).permute(0, 3, 1, 2, 4)  # (N, heads, t, P, d)
            for part in self.to_qkv(self.norm(x)).chunk(3, -1)
        )
        frames, own = x.shape[1], (k.flatten(2, 3), v.flatten(2, 3))
        keys, values = (
            own if past is None else (torch.cat(p, 2) for p in zip(past, own, strict=True))
        )
        rate = self.dropout if self.training else 0.0
        # A frame at a time, so that no mask is needed and nothing is computed that one would hide.
        ends = [keys.shape[2] - (frames - 1 - i) * x.shape[2] for i in range(frames)]
        found = [
            F.scaled_dot_product_attention(
                q[:, :, i], keys[:, :, : ends[i]], values[:, :, : ends[i]], dropout_p=rate
            )
            for i in range(frames - wanted, frames)
        ]
        if not found:
            return x[:, :0], own
        joined = torch.stack(found, 2).permute(0, 2, 3, 1, 4).flatten(3)  # (N, wanted, P, heads·d)
        return self.drop(self.out(joined)), own


class FrameCausalViT(nn.Module):
    """Transformer over up to T frames of P tokens: full attention within a frame, causal between.

    Args:
        tokens: P. width: W of a token. frames: T, for which there are position embeddings.
        depth, heads, head_width, mlp_width, dropout: the usual ones.

    Architecture: the predictor of DINO-WM (arXiv 2411.04983).
    """

    def __init__(
        self,
        tokens: int,
        width: int,
        frames: int,
        depth: int,
        heads: int,
        head_width: int,
        mlp_width: int,
        dropout: float,
    ):
        super().__init__()
        self.position = nn.Parameter(torch.randn(frames, tokens, width))
        self.drop = nn.Dropout(dropout)
        self.attention = nn.ModuleList(
            Attention(width, heads, head_width, dropout) for _ in range(depth)
        )
        self.mlp = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, mlp_width),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(mlp_width, width),
                nn.Dropout(dropout),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, past: list[KeysValues] | None = None) -> Tensor:
        """Tokens (N, t, P, W), oldest frame first → (N, P, W), what follows the last.

        past: what `remember` returned for c frames before them; 1 ≤ t ≤ T - c.
        """
        return self._run(x, past, 1)[0]

    def remember(self, x: Tensor) -> list[KeysValues]:
        """Keys and values of each layer for the first frames (N, c, P, W), c < T: all that later
        frames see of them."""
        return self._run(x, None, 0)[1]

    def _run(
        self, x: Tensor, past: list[KeysValues] | None, wanted: int
    ) -> tuple[Tensor, list[KeysValues]]:
        """The last `wanted` (0 or 1) frames' outcome, and every layer's keys and values."""
        first = past[0][0].shape[2] // x.shape[2] if past else 0
        x = self.drop(x + self.position[first : first + x.shape[1]])
        seen: list[KeysValues] = []
        for layer, (attention, mlp) in enumerate(zip(self.attention, self.mlp, strict=True)):
            # Of the last layer nothing else is used.
            kept = wanted if layer == len(self.attention) - 1 else x.shape[1]
            change, own = attention(x, kept, past[layer] if past else None)
            seen.append(own)
            if kept:
                x = x[:, -kept:] + change
                x = x + mlp(x)
        return self.norm(x[:, -1]), seen


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
        self.action_embedding = nn.Linear(model_action_dim, action_width)
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
        self.change: nn.Linear | None = None
        if residual:
            self.change = nn.Linear(width, self.carried)
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
    """Patch tokens → a picture: two convolutions over the grid of tokens, then their pixels.

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

    def forward(self, visual: Tensor) -> Tensor:
        """Tokens (N, P, D) → darkness per channel (N, 3, S', S'), 0 white to 1 black."""
        maps = visual.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        pictures: Tensor = self.layers(maps)
        return pictures
