# SPDX-License-Identifier: Apache-2.0
"""The DINOv2 vision transformer with the keys of its official checkpoints.

Patches of 14 pixels, a class token, a learned position embedding of 37 x 37 patches, pre-norm blocks with LayerScale.
Depth Anything 3 adds, from some block on, norms of queries and keys and rotary positions (`rotary.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention, silu

from .rotary import RotaryAngles, rotated

PATCH_SIZE = 14
POSITIONS = 37
"""Patches per side of the learned position embedding."""
OFFSET = 0.1
"""DINOv2 resizes its position embedding by (patches + 0.1) / 37; the trained weights expect the shift this makes."""

TransformerSize = Literal["vits", "vitb", "vitl", "vitg"]

_SIZES: dict[TransformerSize, tuple[int, int, int]] = {
    "vits": (384, 12, 6),
    "vitb": (768, 12, 12),
    "vitl": (1024, 24, 16),
    "vitg": (1536, 40, 24),
}


@dataclass(frozen=True)
class VisionTransformerConfig:
    """Which DINOv2, and what Depth Anything 3 adds to it.

    Attributes:
        size: "vits", "vitb", "vitl" or "vitg" (the last with SwiGLU layers).
        epsilon: of the norms within the blocks.
        final_epsilon: of the final norm.
        query_key_norm_from: first block with norms of queries and keys; None: no block.
    """

    size: TransformerSize
    epsilon: float = 1e-6
    final_epsilon: float = 1e-6
    query_key_norm_from: int | None = None

    @property
    def width(self) -> int:
        """Channels of a token."""
        return _SIZES[self.size][0]

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return _SIZES[self.size][1]

    @property
    def num_heads(self) -> int:
        """Heads of every attention."""
        return _SIZES[self.size][2]


class VisionTransformer(nn.Module):
    """Patch and position embedding, blocks, final norm. Which blocks see which tokens is the caller's."""

    def __init__(self, config: VisionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + POSITIONS**2, width))
        self.patch_embed = PatchEmbedding(width)
        start = config.query_key_norm_from
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.num_heads,
                config.epsilon,
                gated=config.size == "vitg",
                query_key_norm=start is not None and index >= start,
            )
            for index in range(config.num_blocks)
        )
        self.norm = nn.LayerNorm(width, eps=config.final_epsilon)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def tokens(self, images: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V 1+h*w C"]:
        """Class token and embedded patches with their positions; H and W are multiples of 14, images normalised.

        Raises:
            ValueError: another size.
        """
        height, width = images.shape[-2:]
        if height % PATCH_SIZE or width % PATCH_SIZE or not height or not width:
            raise ValueError(f"the vision transformer needs multiples of {PATCH_SIZE} pixels, got {width}x{height}")
        patches = self.patch_embed(images)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + self._positions(rows, columns).to(tokens.dtype)

    def _positions(self, rows: int, columns: int) -> Float[Tensor, "1 1+rows*columns C"]:
        if rows == columns == POSITIONS:
            return self.pos_embed
        learned = self.pos_embed.float()
        grid = learned[:, 1:].unflatten(1, (POSITIONS, POSITIONS)).permute(0, 3, 1, 2)
        factors = [(count + OFFSET) / POSITIONS for count in (rows, columns)]
        resized = interpolate(grid, scale_factor=factors, mode="bicubic")
        return torch.cat([learned[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)

    def feature_maps(self, images: Float[Tensor, "V 3 H W"], layers: Sequence[int]) -> list[Float[Tensor, "V C h w"]]:
        """Outputs of some blocks after the final norm, as maps of patches; every image by itself."""
        rows, columns = images.shape[-2] // PATCH_SIZE, images.shape[-1] // PATCH_SIZE
        tokens = self.tokens(images)
        maps = []
        for index, block in enumerate(self.blocks[: max(layers) + 1]):
            tokens = block(tokens)
            if index in layers:
                patches = self.norm(tokens)[:, 1:]
                maps.append(patches.transpose(1, 2).unflatten(2, (rows, columns)))
        return maps


class PatchEmbedding(nn.Module):
    """One linear map per patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH_SIZE, stride=PATCH_SIZE)

    def forward(self, images: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V C h w"]:
        """Embedded patches as a map."""
        return self.proj(images)


class Block(nn.Module):
    """Pre-norm attention and feed-forward layers, each scaled per channel and added."""

    def __init__(
        self,
        width: int,
        num_heads: int,
        epsilon: float,
        gated: bool = False,
        query_key_norm: bool = False,
        layer_scale: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=epsilon)
        self.attn = Attention(width, num_heads, query_key_norm)
        self.ls1 = LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=epsilon)
        self.mlp = GatedFeedForward(width) if gated else FeedForward(width, 4 * width, width)
        self.ls2 = LayerScale(width, layer_scale)

    def forward(self, tokens: Float[Tensor, "B N C"], angles: RotaryAngles | None = None) -> Float[Tensor, "B N C"]:
        """Tokens of one group attend to each other; `angles` of their rotary positions, if they have some."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens), angles))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, num_heads: int, query_key_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // num_heads) if query_key_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(width // num_heads) if query_key_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Float[Tensor, "B N C"], angles: RotaryAngles | None) -> Float[Tensor, "B N C"]:
        """See `Block`."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        query, key = self.q_norm(query), self.k_norm(key)
        if angles is not None:
            query, key = rotated(query, angles), rotated(key, angles)
        mixed = scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, tokens: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        """Channels times their factors."""
        return tokens * self.gamma


class FeedForward(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, tokens: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch D"]:
        """Token by token."""
        return self.fc2(self.act(self.fc1(tokens)))


class GatedFeedForward(nn.Module):
    """SwiGLU: w3(silu(a) b) with (a, b) = w12(x), of two thirds the width of a plain layer, in multiples of eight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = (8 * width // 3 + 7) // 8 * 8
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        """Token by token."""
        gate, value = self.w12(tokens).chunk(2, dim=-1)
        return self.w3(silu(gate) * value)
