# SPDX-License-Identifier: Apache-2.0
"""DepthSplat's depth branch: matching by plane sweeps, regularised with monocular features, upsampled by a decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..blocks import PATCH_SIZE, VisionTransformer, VisionTransformerConfig
from ..blocks.dense_prediction import resized
from .convolutions import ConvolutionalEncoder
from .matching_transformer import MatchingTransformer, window_positions
from .plane_sweep import cost_volume
from .regressor import CostUNet
from .upsampler import DepthUpsampler
from .wiring import Wiring

NUM_CANDIDATES = 128
MATCHING_WIDTH = 128
MONOCULAR_STRIDE = 8


@dataclass(frozen=True, eq=False)
class SweptDepth:
    """What the depth branch knows.

    Attributes:
        depth: [V, H, W] camera z, world units.
        coarse: depths of the earlier sweeps, resized; they are supervised in training, since nothing else trains them.
        match_probability: [V, h, w] of the best candidate, at the resolution of the last sweep.
        monocular: the transformer's four maps at 1/8.
        named: the other maps that decoders join (see `wiring`), without the depth.
    """

    depth: Float[Tensor, "V H W"]
    coarse: tuple[Float[Tensor, "V H W"], ...]
    match_probability: Float[Tensor, "V h w"]
    monocular: list[Float[Tensor, "V C m n"]]
    named: dict[str, Float[Tensor, "V _ _ _"]]


class DepthPredictor(nn.Module):
    """See the module."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self.wiring = wiring
        self.backbone = ConvolutionalEncoder(wiring.lowest)
        self.transformer = MatchingTransformer(MATCHING_WIDTH)
        self.pretrained = VisionTransformer(VisionTransformerConfig(wiring.transformer))
        width = self.pretrained.config.width
        if wiring.num_scales > 1:
            self.mv_pyramid = FinerScale(MATCHING_WIDTH)
            self.mono_pyramid = FinerScale(width)
        self.regressor, self.regressor_residual, self.depth_head = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for scale in range(wiring.num_scales):
            candidates = NUM_CANDIDATES // 4**scale
            incoming = candidates + (128, 96)[scale] + MATCHING_WIDTH // 2**scale + width // 2**scale
            channels = 128 // 2**scale
            self.regressor.append(
                nn.Sequential(
                    nn.Conv2d(incoming, channels, 3, padding=1),
                    nn.GroupNorm(8, channels),
                    nn.GELU(),
                    CostUNet(channels, num_levels=3 + scale),
                    nn.Conv2d(channels, channels, 3, padding=1),
                )
            )
            self.regressor_residual.append(nn.Conv2d(incoming, channels, 1))
            self.depth_head.append(
                nn.Sequential(
                    nn.Conv2d(channels, 2 * channels, 3, padding=1, padding_mode="replicate"),
                    nn.GELU(),
                    nn.Conv2d(2 * channels, candidates, 3, padding=1, padding_mode="replicate"),
                )
            )
        self.upsampler = DepthUpsampler(wiring, width)

    def forward(
        self,
        images: Float[Tensor, "V 3 H W"],
        camera_to_world: Float[Tensor, "V 4 4"],
        Ks: Float[Tensor, "V 3 3"],
        near: Float[Tensor, " V"],
        far: Float[Tensor, " V"],
        others: Int[Tensor, "V M"],
    ) -> SweptDepth:
        """Depths of normalised images with pixel intrinsics; H and W are multiples of `wiring.stride`."""
        height, width = images.shape[-2:]
        convolved = self.backbone(images)
        positions = window_positions(convolved[2])
        matching = [self.transformer(convolved[2] + positions, others)]
        monocular = self._monocular(images)
        last = monocular[-1]
        if self.wiring.lowest == MONOCULAR_STRIDE // 2:
            last = resized(last, (2 * last.shape[-2], 2 * last.shape[-1]))
        monocular_scales = [last]
        if self.wiring.num_scales > 1:
            matching.append(self.mv_pyramid(matching[0]))
            monocular_scales.append(self.mono_pyramid(last))
        named = dict(zip(("c0", "c1", "c2"), convolved, strict=True))
        named |= {f"m{scale}": maps for scale, maps in enumerate(matching)}

        nearest, farthest = (1 / bound[:, None, None, None] for bound in (near, far))  # inverse depths
        inverse: Tensor | None = None
        coarse: list[Tensor] = []
        probabilities = images.new_zeros(0)
        for scale in range(self.wiring.num_scales):
            divisor = self.wiring.lowest // 2**scale
            candidates = self._candidates(scale, inverse, nearest, farthest)
            scaled = torch.cat([Ks[:, :2] / divisor, Ks[:, 2:]], dim=1)
            cost = cost_volume(matching[scale], others, camera_to_world, scaled, 1 / candidates)
            known = torch.cat([cost, convolved[2 - scale], matching[scale], monocular_scales[scale]], dim=1)
            decoded = self.regressor[scale](known) + self.regressor_residual[scale](known)
            probabilities = self.depth_head[scale](decoded).softmax(dim=1)
            found = (probabilities * candidates).sum(dim=1, keepdim=True)
            if scale < self.wiring.num_scales - 1:
                coarse.append(1 / resized(found, (height, width))[:, 0])
            inverse = found
        assert inverse is not None
        correction = self.upsampler(monocular, {**named, "d": inverse})
        fine = resized(inverse, (height, width)) + correction
        fine = torch.minimum(torch.maximum(fine, farthest), nearest)
        return SweptDepth(1 / fine[:, 0], tuple(coarse), probabilities.amax(dim=1), monocular, named)

    def _monocular(self, images: Float[Tensor, "V 3 H W"]) -> list[Float[Tensor, "V C m n"]]:
        """Four maps of the transformer at 1/8, which sees the images at multiples of its patches."""
        height, width = images.shape[-2:]
        patched = resized(images, (height // PATCH_SIZE * PATCH_SIZE, width // PATCH_SIZE * PATCH_SIZE))
        size = (height // MONOCULAR_STRIDE, width // MONOCULAR_STRIDE)
        return [resized(maps, size) for maps in self.pretrained.feature_maps(patched, self.wiring.layers)]

    def _candidates(
        self,
        scale: int,
        inverse: Float[Tensor, "V 1 h w"] | None,
        nearest: Float[Tensor, "V 1 1 1"],
        farthest: Float[Tensor, "V 1 1 1"],
    ) -> Float[Tensor, "V D 1 1"] | Float[Tensor, "V D 2*h 2*w"]:
        """Inverse depths to try: the whole range first, then intervals around what the sweep before found."""
        count = NUM_CANDIDATES // 4**scale
        steps = torch.linspace(0, 1, count, device=nearest.device, dtype=nearest.dtype).view(1, count, 1, 1)
        if inverse is None:
            return farthest + steps * (nearest - farthest)
        interval = (nearest - farthest) / (NUM_CANDIDATES - 1) / 2**scale
        around = interpolate(inverse, scale_factor=2, mode="bilinear", align_corners=True).detach()
        low = torch.maximum(around - interval * (count // 2), farthest)
        high = torch.minimum(around + interval * (count // 2 - 1), nearest)
        return low + steps * (high - low)


class FinerScale(nn.Module):
    """Maps at twice the resolution, of half the channels. Its stages are numbered as the official scales are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        finer = nn.Sequential(
            nn.ConvTranspose2d(channels, half, 2, stride=2), nn.GELU(), nn.Conv2d(half, half, 3, padding=1)
        )
        self.stages = nn.ModuleList([nn.Identity(), finer])

    def forward(self, maps: Float[Tensor, "V C h w"]) -> Float[Tensor, "V C/2 2*h 2*w"]:
        """See the class."""
        return self.stages[1](maps)
