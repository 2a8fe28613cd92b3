"""A predictor that sees the table from where a push goes, for actions that are pushes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..normalize import ActionNormalizer
from .linear import Linear, unchanged

# How far the grid reaches from the push's end, in units of half the picture's side; and as far to
# either side as the picture is wide.
BEHIND, AHEAD = 1.7, 0.7
REACH, CENTER = (BEHIND + AHEAD) / 2, (AHEAD - BEHIND) / 2


class PushPredictor(nn.Module):
    """What a push changes, learnt in the frame of the push: the latent of a linear encoder and one
    model action → the change of the latent.

    A push does the same wherever it goes. So the picture that the latent stands for, of G × G
    cells, is sampled on a grid of as many that lies along the push, from BEHIND its end to AHEAD of
    it; a residual MLP predicts by how much each of these samples changes, times a gate between 0
    and 1; and the changes are put back to where the grid lies, and encoded. What does not move
    along, the walls, is told by where the end lies and which way the push goes.
    Source: the image in the frame of the push, Suh and Tedrake, arXiv 2002.09093, there with a
    linear map; gates, arXiv 1505.00387.

    Args:
        head: of the encoder, S² numbers of a picture → D; it is used as it is at the time, and is
            not a part of this module.
        actions: of the model, for actions (start x, start y, end x, end y) in units of half the
            picture's side from its centre, x to the right and y down; likewise.
        proprio_dim: E.
        grid: G, cells along each side of the picture, and samples along each of the grid's.
        width: hidden units.
        depth: residual blocks.
        frequencies: K ≥ 0, octaves of sines and cosines of the push's length.
    """

    substeps = 1

    def __init__(
        self,
        head: nn.Linear,
        actions: ActionNormalizer,
        proprio_dim: int,
        grid: int,
        width: int,
        depth: int,
        frequencies: int,
    ):
        super().__init__()
        self._shared = (head, actions)  # in a tuple, so that they stay the model's
        self.grid = grid
        self.register_buffer("octaves", math.pi / 2 * 2.0 ** torch.arange(frequencies), False)
        middles = (torch.arange(grid) + 0.5) / grid * 2 - 1
        self.register_buffer("middles", middles[:, None], False)  # (G, 1), of the cells
        self.input = Linear(grid**2 + 5 + 2 * frequencies + proprio_dim, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), Linear(width, width), nn.GELU(), Linear(width, width)
            )
            for _ in range(depth)
        )
        self.output = Linear(width, 2 * grid**2)  # changes, and the gates' logits behind them
        self.sensed = Linear(width, proprio_dim)
        for layer in (self.output, self.sensed):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    octaves: Tensor
    middles: Tensor

    def embed(self, model_actions: Tensor) -> Tensor:
        """Model actions (..., 1, 4) → what follows from them alone, (..., 1, 17 + 2 K): the affine
        maps (2, 3) from the grid to the picture and back, and what the MLP is told of the push."""
        start, end = self._shared[1].denormalize(model_actions).chunk(2, -1)
        way = end - start
        length = (way.square().sum(-1, keepdim=True) + 1e-8).sqrt()
        along = way / length
        across = torch.stack([-along[..., 1], along[..., 0]], -1)
        # Of the grid's samples, the second axis lies along, so that its rows are one behind the
        # other; in units of half its sides.
        to_picture = torch.stack([across, REACH * along, end + CENTER * along], -1)
        wall = [(axis * end).sum(-1, keepdim=True) for axis in (along, across)]
        to_grid = [across, -wall[1], along / REACH, -(wall[0] + CENTER) / REACH]
        waves = length * self.octaves
        told = [length, *wall, along, waves.sin(), waves.cos()]
        return torch.cat([to_picture.flatten(-2), *to_grid, *told], -1)

    def unroll(
        self, latents: Tensor, embedded_actions: Tensor, checkpointed: bool = False
    ) -> Tensor:
        """Latents (N, 1, D + E) and n embedded pushes (N, n, 17 + 2 K) → the latents (N, n, D + E)
        after each. checkpointed: whether torch.utils.checkpoint calls, which makes no difference
        here."""
        latent, found = latents[:, 0], []
        for push in embedded_actions.unbind(1):
            latent = self._next(latent, push)
            found.append(latent)
        return torch.stack(found, 1)

    def frozen_layers(self, latents: Tensor) -> None:
        """There are none that `frozen_unroll` takes."""

    def forward(self, latents: Tensor, embedded_actions: Tensor) -> Tensor:
        """The next latent (N, L); arguments as for `unroll`."""
        return self.unroll(latents, embedded_actions)[:, -1]

    def _next(self, latent: Tensor, push: Tensor) -> Tensor:
        to_picture, to_latent = self._maps()
        visual, proprio = latent.split((len(self._shared[0].weight), self.sensed.out_features), -1)
        seen_at, put_at, told = push.split((6, 6, push.shape[-1] - 12), -1)
        picture = to_picture(visual).unflatten(1, (1, self.grid, self.grid))
        seen = _sample(picture, seen_at, self.middles, "border")
        hidden = self.input(torch.cat([seen, told, proprio], -1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        change = F.glu(self.output(hidden)).unflatten(1, (1, self.grid, self.grid))
        put_back = _sample(change, put_at, self.middles, "zeros")
        return latent + torch.cat([to_latent(put_back), self.sensed(hidden)], -1)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _maps(self) -> tuple[Linear, Linear]:
        """Latents → pictures, by the encoder's pseudo-inverse, and changes of pictures → of
        latents; made anew where the encoder has changed."""
        head, grid = self._shared[0], (self.grid, self.grid)
        size = math.isqrt(head.in_features)

        @torch.inference_mode(False)  # kept beyond one that may be on
        @torch.no_grad()
        def make() -> tuple[Linear, Linear]:
            weight, bias = head.weight, head.bias
            pictures = torch.linalg.pinv(weight.float()).T.unflatten(1, (1, size, size))
            back = F.adaptive_avg_pool2d(pictures, grid).flatten(1).T.to(weight.dtype)
            cells = torch.eye(self.grid**2, device=weight.device).unflatten(1, (1, *grid))
            large = F.interpolate(cells, (size, size), mode="bilinear", align_corners=False)
            return _linear(back, -back @ bias), _linear(weight @ large.flatten(1).T.to(weight))

        return unchanged(self, [head.weight, head.bias], make)


def _sample(pictures: Tensor, maps: Tensor, middles: Tensor, padding: str) -> Tensor:
    """Pictures (N, 1, G, G) where the affine maps (N, 6) take G × G places, whose x and y are
    `middles` (G, 1): (N, G²)."""
    # By sums: a matrix product autocast would round to a fifth of a cell, F.affine_grid's as well.
    across, along, origin = maps.unflatten(1, (1, 2, 3)).unbind(-1)
    places = (origin + middles * along)[:, :, None] + (middles * across)[:, None]
    found = F.grid_sample(
        pictures.to(places.dtype), places, padding_mode=padding, align_corners=False
    )
    return found.flatten(1)


def _linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """A layer with these weights, which are not trained."""
    layer = Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
