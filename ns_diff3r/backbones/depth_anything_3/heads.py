# SPDX-License-Identifier: Apache-2.0
"""DA3's decoders: DPT with a position term; one for depth and rays, one for Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..blocks import PATCH_SIZE, Scratch, resize_layers
from ..blocks.dense_prediction import resized
from .architecture import FINAL_EPSILON, Architecture

HIDDEN = 32
NUM_RAW = 38
"""Channels of a raw Gaussian, see `gaussians.py`."""
POSITION_WEIGHT = 0.1
POSITION_BASE = 100.0
NUM_RAY_LEVELS = 4


class DepthMaps(NamedTuple):
    """Depth and how sure the network is of it."""

    depth: Float[Tensor, "V H W"]
    """Camera z."""
    confidence: Float[Tensor, "V H W"]
    """At least 1."""


class _Decoder(nn.Module):
    """What both decoders share: tokens of four layers → their fused maps at 8/14 of the resolution."""

    def __init__(self, architecture: Architecture, outputs: int) -> None:
        super().__init__()
        channels, features = architecture.channels, architecture.features
        self.projects = nn.ModuleList(nn.Conv2d(2 * architecture.width, count, 1) for count in channels)
        self.resize_layers = resize_layers(channels)
        self.scratch = Scratch(channels, features)
        self.scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        self.scratch.output_conv2 = nn.Sequential(
            nn.Conv2d(features // 2, HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, outputs, 1)
        )

    def laterals(
        self, features: Sequence[Float[Tensor, "V N C"]], size: tuple[int, int]
    ) -> list[Float[Tensor, "V F _ _"]]:
        """Maps of the four layers for the fusion; `size` of the images."""
        shape = (size[0] // PATCH_SIZE, size[1] // PATCH_SIZE)
        maps = []
        for tokens, project, resize in zip(features, self.projects, self.resize_layers, strict=True):
            projected = project(tokens.transpose(1, 2).unflatten(2, shape))
            maps.append(resize(with_position(projected, size)))
        return self.scratch.laterals(maps)

    def upsampled(self, laterals: Sequence[Float[Tensor, "V F _ _"]], size: tuple[int, int]) -> Tensor:
        """[V, F/2, H, W] fused and brought to the resolution of the images."""
        return resized(self.scratch.output_conv1(self.scratch.fuse(laterals)), size)


class DepthHead(_Decoder):
    """Depth; and rays, from which cameras can be estimated as well."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, outputs=2)
        features = architecture.features
        half = features // 2
        self.norm = nn.LayerNorm(2 * architecture.width, eps=FINAL_EPSILON)
        self.scratch.add_fusion(features, "_aux")
        widths = ((features, half), (half, features), (features, half), (half, features), (features, half))
        self.scratch.output_conv1_aux = nn.ModuleList(
            nn.Sequential(*(nn.Conv2d(incoming, outgoing, 3, padding=1) for incoming, outgoing in widths))
            for _ in range(NUM_RAY_LEVELS)
        )
        self.scratch.output_conv2_aux = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(half, HIDDEN, 3, padding=1),
                _ChannelsLast(),
                nn.LayerNorm(HIDDEN, eps=FINAL_EPSILON),
                _ChannelsFirst(),
                nn.ReLU(),
                nn.Conv2d(HIDDEN, 7, 1),
            )
            for _ in range(NUM_RAY_LEVELS)
        )

    def forward(self, features: Sequence[Float[Tensor, "V N C"]], size: tuple[int, int]) -> DepthMaps:
        """Depth at the resolution of the images."""
        laterals = self.laterals([self.norm(tokens) for tokens in features], size)
        maps = self.scratch.output_conv2(with_position(self.upsampled(laterals, size), size))
        return DepthMaps(maps[:, 0].exp(), maps[:, 1].exp() + 1)

    def rays(self, features: Sequence[Float[Tensor, "V N C"]], size: tuple[int, int]) -> Float[Tensor, "V 7 h w"]:
        """Six ray channels and their confidence at 8/14 of the resolution; nothing else here uses these layers."""
        laterals = self.laterals([self.norm(tokens) for tokens in features], size)
        fused = self.scratch.output_conv1_aux[-1](self.scratch.fuse(laterals, "_aux"))
        maps = self.scratch.output_conv2_aux[-1](with_position(fused, size))
        return torch.cat([maps[:, :6], maps[:, 6:].exp() + 1], dim=1)

    def ray_parameters(self) -> list[nn.Parameter]:
        """Parameters that only `rays` uses, or that nothing uses."""
        return [parameter for name, parameter in self.named_parameters() if "_aux" in name]


class GaussianHead(_Decoder):
    """Raw Gaussians of every pixel, with the image's own details added."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture, outputs=NUM_RAW)
        half = architecture.features // 2
        layers: list[nn.Module] = []
        for incoming, outgoing in ((3, half // 4), (half // 4, half // 2), (half // 2, half)):
            layers += [nn.Conv2d(incoming, outgoing, 3, padding=1), nn.GELU()]
        self.images_merger = nn.Sequential(*layers)

    def forward(
        self, features: Sequence[Float[Tensor, "V N C"]], images: Float[Tensor, "V 3 H W"]
    ) -> tuple[Float[Tensor, "V 38 H W"], Float[Tensor, "V F/2 H W"]]:
        """Raw Gaussians of normalised images, and the features they are read from."""
        size = (images.shape[-2], images.shape[-1])
        upsampled = self.upsampled(self.laterals(features, size), size)
        decoded = with_position(upsampled + self.images_merger(images), size)
        return self.scratch.output_conv2(decoded), decoded


def with_position(maps: Float[Tensor, "V C h w"], size: tuple[int, int]) -> Float[Tensor, "V C h w"]:
    """Adds a sine embedding of the position in the image, whose diagonal has length 2; `size` gives its aspect."""
    channels, rows, columns = maps.shape[1:]
    aspect = size[1] / size[0]
    diagonal = (aspect * aspect + 1) ** 0.5
    quarter = channels // 4
    exponents = torch.arange(quarter, device=maps.device, dtype=torch.float32) / quarter
    frequencies = 1.0 / POSITION_BASE**exponents

    def along(count: int, span: float) -> Float[Tensor, "n C/2"]:
        edge = span / diagonal * (count - 1) / count
        angles = torch.linspace(-edge, edge, count, device=maps.device)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    across = along(columns, aspect)[None].expand(rows, -1, -1)
    down = along(rows, 1.0)[:, None].expand(-1, columns, -1)
    embedding = torch.cat([across, down], dim=-1).permute(2, 0, 1)
    return maps + (POSITION_WEIGHT * embedding).to(maps.dtype)


class _ChannelsLast(nn.Module):
    def forward(self, maps: Float[Tensor, "V C h w"]) -> Float[Tensor, "V h w C"]:
        return maps.permute(0, 2, 3, 1)


class _ChannelsFirst(nn.Module):
    def forward(self, maps: Float[Tensor, "V h w C"]) -> Float[Tensor, "V C h w"]:
        return maps.permute(0, 3, 1, 2)
