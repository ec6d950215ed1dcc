# SPDX-License-Identifier: Apache-2.0
"""DepthSplat's multi-view transformer: features of a view look at those of other views, window by window.

2 x 2 windows, which every other layer shifts by half a window (Swin).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

SPLITS = 2
"""Windows per axis."""
BLOCKED = -100.0
"""Added to the logit between positions that shifting brought into one window."""
TEMPERATURE = 10_000.0


def window_positions(like: Float[Tensor, "V C h w"]) -> Float[Tensor, "C h w"]:
    """Sine embedding of the position within its window, half the channels for the row, half for the column."""
    channels, height, width = like.shape[1] // 2, like.shape[2], like.shape[3]
    index = torch.arange(channels, device=like.device, dtype=torch.float32)
    periods = TEMPERATURE ** (2 * (index // 2) / channels)

    def along(count: int) -> Float[Tensor, "n c"]:
        steps = torch.arange(1, count + 1, device=like.device, dtype=torch.float32)
        angles = (steps / (count + 1e-6) * (2 * math.pi))[:, None] / periods
        return torch.where(index % 2 == 0, angles.sin(), angles.cos())

    rows = along(height // SPLITS).repeat(SPLITS, 1)[:, None].expand(-1, width, -1)
    columns = along(width // SPLITS).repeat(SPLITS, 1)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).permute(2, 0, 1).to(like.dtype)


class MatchingTransformer(nn.Module):
    """Six layers of self- and cross-attention."""

    def __init__(self, width: int = 128, num_layers: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MatchingLayer(width, shifted=index % 2 == 1) for index in range(num_layers))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Float[Tensor, "V C h w"], others: Int[Tensor, "V M"]) -> Float[Tensor, "V C h w"]:
        """Features that know of those of the views `others`; h and w are multiples of 2."""
        mask = shifted_window_mask(features.shape[-2], features.shape[-1], features)
        tokens = features.permute(0, 2, 3, 1)
        for layer in self.layers:
            tokens = layer(tokens, tokens[others], mask)
        return tokens.permute(0, 3, 1, 2).contiguous()


class MatchingLayer(nn.Module):
    """Self-attention, then cross-attention with a feed-forward network."""

    def __init__(self, width: int, shifted: bool) -> None:
        super().__init__()
        self.self_attn = WindowAttention(width, shifted, feed_forward=False)
        self.cross_attn_ffn = WindowAttention(width, shifted, feed_forward=True)

    def forward(
        self,
        source: Float[Tensor, "V h w C"],
        targets: Float[Tensor, "V M h w C"],
        mask: Float[Tensor, "4 n n"],
    ) -> Float[Tensor, "V h w C"]:
        """`targets` are the other views' tokens as they entered this layer."""
        source = self.self_attn(source, source[:, None], mask)
        return self.cross_attn_ffn(source, targets, mask)


class WindowAttention(nn.Module):
    """Attention with one head within windows, over one or more target views."""

    def __init__(self, width: int, shifted: bool, feed_forward: bool) -> None:
        super().__init__()
        self.shifted = shifted
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = None
        if feed_forward:
            hidden = 8 * width
            layers = (nn.Linear(2 * width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, width, bias=False))
            self.mlp = nn.Sequential(*layers)
            self.norm2 = nn.LayerNorm(width)

    def forward(
        self,
        source: Float[Tensor, "V h w C"],
        targets: Float[Tensor, "V M h w C"],
        mask: Float[Tensor, "4 n n"],
    ) -> Float[Tensor, "V h w C"]:
        """The source plus what it reads from the targets.

        The keys of a window are ordered position by position, the views of one position together, while the mask is
        repeated view by view: with two or more targets that mask blocks other pairs than meant. The official weights
        were trained with it.
        """
        num_targets = targets.shape[1]
        query = self._windows(self.q_proj(source))
        key = self._windows(self.k_proj(targets)).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [V, 4, n·M, C]
        value = self._windows(self.v_proj(targets)).permute(0, 2, 3, 1, 4).flatten(2, 3)
        bias = mask.repeat(1, 1, num_targets) if self.shifted else None
        message = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        message = self.norm1(self.merge(self._unwindowed(message, source.shape[1], source.shape[2])))
        if self.mlp is not None:
            message = self.norm2(self.mlp(torch.cat([source, message], dim=-1)))
        return source + message

    def _windows(self, tokens: Float[Tensor, "*batch h w C"]) -> Float[Tensor, "*batch 4 n C"]:
        height, width = tokens.shape[-3:-1]
        if self.shifted:
            shift = (-(height // SPLITS // 2), -(width // SPLITS // 2))
            tokens = tokens.roll(shift, (-3, -2))
        return _split(tokens)

    def _unwindowed(self, windows: Float[Tensor, "V 4 n C"], height: int, width: int) -> Float[Tensor, "V h w C"]:
        tokens = windows.unflatten(2, (height // SPLITS, width // SPLITS)).unflatten(1, (SPLITS, SPLITS))
        tokens = tokens.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        if self.shifted:
            tokens = tokens.roll((height // SPLITS // 2, width // SPLITS // 2), (1, 2))
        return tokens


def _split(tokens: Float[Tensor, "*batch h w C"]) -> Float[Tensor, "*batch 4 n C"]:
    height, width, _ = tokens.shape[-3:]
    split = tokens.unflatten(-2, (SPLITS, width // SPLITS)).unflatten(-4, (SPLITS, height // SPLITS))
    return split.transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)


def shifted_window_mask(height: int, width: int, like: Tensor) -> Float[Tensor, "4 n n"]:
    """0 where two positions of a shifted window are neighbours in the image, BLOCKED elsewhere."""

    def regions(size: int) -> Int[Tensor, " size"]:
        window = size // SPLITS
        position = torch.arange(size, device=like.device)
        return (position >= size - window).long() + (position >= size - window // 2).long()

    labels = 3 * regions(height)[:, None] + regions(width)
    windows = _split(labels[..., None])[..., 0]
    return (windows[:, None] != windows[:, :, None]).to(like.dtype) * BLOCKED
