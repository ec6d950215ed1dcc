# SPDX-License-Identifier: Apache-2.0
"""DepthSplat's decoders: DPT over monocular maps, with convolutional and multi-view features joined to its levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..blocks import Scratch, resize_layers
from .regressor import zeroed
from .wiring import Wiring


class JoiningDecoder(nn.Module):
    """Four monocular maps at 1/8 and named maps → features at full resolution."""

    def __init__(self, wiring: Wiring, width: int, features: int, with_depth: bool) -> None:
        """`width`: channels of the monocular maps; `with_depth`: it joins the inverse depth "d" as well."""
        super().__init__()
        channels = wiring.channels
        self.joined = wiring.laterals(with_depth)
        incoming = wiring.lateral_channels(with_depth)
        self.concat_projects = nn.ModuleList(
            nn.Conv2d(count, out, 1) for count, out in zip(incoming, channels[:3], strict=True)
        )
        self.projects = nn.ModuleList(nn.Conv2d(width, out, 1) for out in channels)
        self.resize_layers = resize_layers(channels)
        self.scratch = Scratch(channels, features)

    def forward(
        self, monocular: Sequence[Float[Tensor, "V C h w"]], named: Mapping[str, Float[Tensor, "V _ _ _"]]
    ) -> Float[Tensor, "V F H W"]:
        """See the class; `named` are the maps c0, c1, … of `wiring`."""
        maps = [
            resize(project(x)) for x, project, resize in zip(monocular, self.projects, self.resize_layers, strict=True)
        ]
        for level, names in enumerate(self.joined):
            parts = [maps[level] if name == "l" else named[name] for name in names]
            maps[level] = self.concat_projects[level](torch.cat(parts, dim=1))
        return self.scratch.fuse(self.scratch.laterals(maps))


class DepthUpsampler(JoiningDecoder):
    """A decoder that ends in one channel, what is added to the resized inverse depth; zero at initialisation."""

    def __init__(self, wiring: Wiring, width: int) -> None:
        features = wiring.depth_features
        super().__init__(wiring, width, features, with_depth=True)
        self.scratch.output_conv = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            nn.Conv2d(features // 2, 16, 3, padding=1, padding_mode="replicate"),
            nn.GELU(),
            last := nn.Conv2d(16, 1, 1),
        )
        zeroed(last)

    def forward(
        self, monocular: Sequence[Float[Tensor, "V C h w"]], named: Mapping[str, Float[Tensor, "V _ _ _"]]
    ) -> Float[Tensor, "V 1 H W"]:
        """Correction of the inverse depth, 1/world units."""
        return self.scratch.output_conv(super().forward(monocular, named))
