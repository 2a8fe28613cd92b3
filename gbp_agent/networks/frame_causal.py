"""A transformer over frames of tokens that sees no later frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .linear import Linear

KeysValues = tuple[Tensor, Tensor]
"""Keys and values (N, heads, c·P, d) of c frames."""


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention of queries (N, heads, c, d) over keys and values (N, heads, e,
    d), unmasked → (N, heads, c, d).

    Products of bfloat16 on a processor are written out: torch's fused kernel there takes twice as
    long as its matrix products, and the backward nearly three times (torch 2.15).
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or dropout:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    with torch.autocast("cpu", enabled=False):  # it would have the softmax in float32
        weight = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return weight.softmax(-1) @ v


def beginnings(whole: Tensor, ends: Sequence[int]) -> tuple[Tensor, ...]:
    """The first so many rows of keys or values (N, heads, c, d), for each of `ends`, the last of
    which is c."""
    if len(ends) == 1:
        return (whole,)
    found: tuple[Tensor, ...] = _Beginnings.apply(whole, ends)
    return found


class _Beginnings(torch.autograd.Function):
    """Slices, whose gradients are added up in place: autograd fills a tensor of zeros for each."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, ends: Sequence[int]) -> tuple[Tensor, ...]:
        return tuple(whole[:, :, :end] for end in ends)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        *others, longest = gradients
        total = longest.clone()
        for gradient in others:
            total[:, :, : gradient.shape[2]] += gradient
        return total, None


class Attention(nn.Module):
    """Multi-head attention, pre-norm; tokens see their own frame and earlier ones."""

    def __init__(self, width: int, heads: int, head_width: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.to_qkv = Linear(width, 3 * heads * head_width, bias=False)
        self.out = Linear(heads * head_width, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, wanted: int, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """Tokens (N, t, P, W) → what is added to those of the last `wanted` frames, (N, wanted, P,
        W), and the keys and values of all. past: those of the frames before, of B ≤ N rows that
        are the same for N/B rows in a row each."""
        parts = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        parts = parts.permute(3, 0, 4, 1, 2, 5)
        if x.device.type == "cpu":  # dense, so that no product below has to copy its frames
            parts = parts.contiguous()
        q, k, v = parts.flatten(3, 4)  # (N, heads, t·P, d) each
        frames, tokens, own = x.shape[1], x.shape[2], (k, v)
        if not wanted:
            return x[:, :0], own
        keys, values = own if past is None else map(_after, past, own)
        rate = self.dropout if self.training else 0.0
        # A frame at a time, so that no mask is needed and nothing is computed that one would hide.
        ends = [keys.shape[2] - (frames - 1 - i) * tokens for i in range(frames - wanted, frames)]
        found = [
            attend(*each, rate).transpose(1, 2)
            for each in zip(
                q[:, :, -wanted * tokens :].split(tokens, 2),
                beginnings(keys, ends),
                beginnings(values, ends),
                strict=True,
            )
        ]
        joined = torch.stack(found, 1).flatten(3)  # (N, wanted, P, heads·d)
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
                Linear(width, mlp_width),
                nn.GELU(),
                nn.Dropout(dropout),
                Linear(mlp_width, width),
                nn.Dropout(dropout),
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, past: list[KeysValues] | None = None) -> Tensor:
        """Tokens (N, t, P, W), oldest frame first → (N, P, W), what follows the last.

        past: what `remember` returned for c frames before them, 1 ≤ t ≤ T - c, of B rows, where N
            is a multiple of B: the first N/B rows of tokens come after the first of them.
        """
        return self._run(x, past, 1)[0]

    def remember(self, x: Tensor) -> list[KeysValues]:
        """Keys and values of each layer for the first frames (N, c, P, W), c < T: all that later
        frames see of them."""
        return self._run(x, None, 0)[1]

    def _run(
        self, x: Tensor, past: list[KeysValues] | None, wanted: int
    ) -> tuple[Tensor, list[KeysValues]]:
        """The last `wanted` (0 or 1) frames' outcome; or, with 0, every layer's keys and values."""
        first = past[0][0].shape[2] // x.shape[2] if past else 0
        x = self.drop(x + self.position[first : first + x.shape[1]])
        seen: list[KeysValues] = []
        for layer, (attention, mlp) in enumerate(zip(self.attention, self.mlp, strict=True)):
            # Of the last layer nothing else is used.
            kept = wanted if layer == len(self.attention) - 1 else x.shape[1]
            change, own = attention(x, kept, past[layer] if past else None)
            if not wanted:
                seen.append(own)
            if kept:
                x = x[:, -kept:] + change
                x = x + mlp(x)
        return self.norm(x[:, -1]), seen


def _after(past: Tensor, own: Tensor) -> Tensor:
    """Keys or values (B, heads, c, d), each N/B times, and behind them those (N, heads, t, d)."""
    # Repeated here, layer by layer, they are never held for all plans and layers at once.
    shared = past.unsqueeze(1).expand(-1, len(own) // len(past), -1, -1, -1)
    return torch.cat((shared, own.unflatten(0, shared.shape[:2])), 3).flatten(0, 1)
