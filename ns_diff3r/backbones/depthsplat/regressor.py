# SPDX-License-Identifier: Apache-2.0
"""DepthSplat's U-Net over a cost volume, whose coarsest level attends over the pixels of all views together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

GROUPS = 8
HEAD_CHANNELS = 32


class CostUNet(nn.Module):
    """U-Net of one width and `num_levels` resolutions; attention at the coarsest."""

    def __init__(self, width: int, num_levels: int) -> None:
        super().__init__()
        last = num_levels - 1
        self.input_blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(width, width, 3, padding=1))])
        for level in range(num_levels):
            attention = [CrossViewAttention(width)] if level == last else []
            self.input_blocks.append(nn.Sequential(ResidualBlock(width, width), *attention))
            if level < last:
                self.input_blocks.append(nn.Sequential(Downsample(width)))
        self.middle_block = nn.Sequential(ResidualBlock(width, width), nn.Identity(), ResidualBlock(width, width))
        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            for index in range(2):
                parts: list[nn.Module] = [ResidualBlock(2 * width, width)]
                parts += [CrossViewAttention(width)] if level == last else []
                parts += [Upsample(width)] if level > 0 and index == 1 else []
                self.output_blocks.append(nn.Sequential(*parts))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Float[Tensor, "V C h w"]) -> Float[Tensor, "V C h w"]:
        """All views of one scene; h and w are multiples of 2**(num_levels - 1)."""
        skipped = []
        for block in self.input_blocks:
            x = block(x)
            skipped.append(x)
        x = self.middle_block(x)
        for block in self.output_blocks:
            x = block(torch.cat([x, skipped.pop()], dim=1))
        return self.out(x)


class ResidualBlock(nn.Module):
    """Two convolutions behind norms, and a shortcut."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(c, outgoing, 3, padding=1) for c in (incoming, outgoing)]
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, incoming), nn.SiLU(), convolutions[0])
        # A dropout of nothing keeps the official numbering.
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, outgoing), nn.SiLU(), nn.Identity(), convolutions[1])
        self.skip_connection = nn.Identity() if incoming == outgoing else nn.Conv2d(incoming, outgoing, 1)
        zeroed(convolutions[1])

    def forward(self, x: Float[Tensor, "V C h w"]) -> Float[Tensor, "V D h w"]:
        """See the class."""
        return self.skip_connection(x) + self.out_layers(self.in_layers(x))


class CrossViewAttention(nn.Module):
    """Self-attention over the pixels of all views."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = width // HEAD_CHANNELS
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)
        zeroed(self.proj_out)

    def forward(self, x: Float[Tensor, "V C h w"]) -> Float[Tensor, "V C h w"]:
        """See the class."""
        num_views, _, height, width = x.shape
        mixed = self.qkv(self.norm(x.flatten(2)))  # [V, heads·3·D, n]
        mixed = mixed.unflatten(1, (self.num_heads, 3, HEAD_CHANNELS)).permute(2, 1, 0, 4, 3).flatten(2, 3)
        query, key, value = mixed.unbind(0)  # [heads, V·n, D] each
        attended = scaled_dot_product_attention(query[None], key[None], value[None])[0]
        attended = attended.unflatten(1, (num_views, -1)).permute(1, 0, 3, 2).flatten(1, 2)  # [V, C, n]
        return x + self.proj_out(attended).unflatten(2, (height, width))


class Downsample(nn.Module):
    """A convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Float[Tensor, "V C h w"]) -> Float[Tensor, "V C h/2 w/2"]:
        """See the class."""
        return self.op(x)


class Upsample(nn.Module):
    """Doubled pixels and a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "V C h w"]) -> Float[Tensor, "V C 2*h 2*w"]:
        """See the class."""
        return self.conv(interpolate(x, scale_factor=2, mode="nearest"))


def zeroed(layer: nn.Conv1d | nn.Conv2d) -> None:
    """Let a layer begin at zero."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
