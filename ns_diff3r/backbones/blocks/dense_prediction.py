# SPDX-License-Identifier: Apache-2.0
"""The DPT decoder (Ranftl et al., 2021): four maps of a vision transformer, fused from coarse to fine.

Networks differ in what they add between these parts; the parts and their keys are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu


def resize_layers(channels: Sequence[int]) -> nn.ModuleList:
    """Layers that bring maps 0 to 3 of one resolution to 4, 2, 1 and 1/2 times that resolution."""
    return nn.ModuleList(
        [
            nn.ConvTranspose2d(channels[0], channels[0], 4, stride=4),
            nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
            nn.Identity(),
            nn.Conv2d(channels[3], channels[3], 3, stride=2, padding=1),
        ]
    )


class ResidualConvolutions(nn.Module):
    """x + conv2(relu(conv1(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "V C h w"]) -> Float[Tensor, "V C h w"]:
        """See the class."""
        return x + self.conv2(relu(self.conv1(relu(x))))


class FeatureFusion(nn.Module):
    """Adds a finer map to a coarser one, refines the sum and resizes it."""

    def __init__(self, channels: int, has_lateral: bool = True) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        if has_lateral:
            self.resConfUnit1 = ResidualConvolutions(channels)
        self.resConfUnit2 = ResidualConvolutions(channels)

    def forward(
        self,
        top: Float[Tensor, "V C h w"],
        lateral: Float[Tensor, "V C h w"] | None,
        size: tuple[int, int] | None,
    ) -> Float[Tensor, "V C H W"]:
        """The fused map at `size`, or at twice the resolution of `top`."""
        if lateral is not None:
            top = top + self.resConfUnit1(lateral)
        refined = self.resConfUnit2(top)
        size = size if size is not None else (2 * refined.shape[-2], 2 * refined.shape[-1])
        return self.out_conv(interpolate(refined, size, mode="bilinear", align_corners=True))


class Scratch(nn.Module):
    """Four resized maps → one map at twice the resolution of the finest. Heads add their output layers to it."""

    output_conv: nn.Sequential
    output_conv1: nn.Conv2d
    output_conv2: nn.Sequential
    output_conv1_aux: nn.ModuleList
    output_conv2_aux: nn.ModuleList

    def __init__(self, channels: Sequence[int], features: int) -> None:
        super().__init__()
        for level, count in enumerate(channels, 1):
            setattr(self, f"layer{level}_rn", nn.Conv2d(count, features, 3, padding=1, bias=False))
        self.add_fusion(features)

    def add_fusion(self, features: int, suffix: str = "") -> None:
        """One chain of fusions, refinenet1 to refinenet4 with `suffix`."""
        for level in range(1, 5):
            setattr(self, f"refinenet{level}{suffix}", FeatureFusion(features, has_lateral=level < 4))

    def laterals(self, maps: Sequence[Float[Tensor, "V c h w"]]) -> list[Float[Tensor, "V F h w"]]:
        """The four maps with `features` channels each."""
        return [getattr(self, f"layer{level}_rn")(x) for level, x in enumerate(maps, 1)]

    def fuse(self, laterals: Sequence[Float[Tensor, "V F h w"]], suffix: str = "") -> Float[Tensor, "V F H W"]:
        """From the coarsest lateral to twice the resolution of the finest."""
        fused: Tensor | None = None
        for level in range(4, 0, -1):
            fusion: FeatureFusion = getattr(self, f"refinenet{level}{suffix}")
            size = tuple(laterals[level - 2].shape[-2:]) if level > 1 else None
            lateral = laterals[level - 1]
            fused = fusion(lateral, None, size) if fused is None else fusion(fused, lateral, size)
        assert fused is not None
        return fused


def resized(maps: Float[Tensor, "V C h w"], size: tuple[int, int]) -> Float[Tensor, "V C H W"]:
    """Bilinear, with the corner pixels' centres kept in place, as all these networks were trained."""
    return interpolate(maps, size, mode="bilinear", align_corners=True)
