# SPDX-License-Identifier: Apache-2.0
"""Depth Anything 3 as its checkpoints have it: the module whose state dict has the official keys and shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..blocks.numerics import full_precision
from .architecture import Architecture
from .cameras import CameraDecoder, CameraEncoder, PredictedCameras
from .heads import DepthHead, DepthMaps, GaussianHead
from .ray_poses import cameras_from_rays
from .trunk import Trunk, TrunkOutput


@dataclass(frozen=True, eq=False)
class DepthAnything3Output:
    """Maps and cameras of one scene, in the network's own frame and units.

    Attributes:
        trunk: tokens.
        maps: depth and confidence.
        cameras: as predicted.
        raw: [V, 38, H, W] raw Gaussians, see `gaussians.pixel_gaussians`; None without a Gaussian head.
        features: [V, F/2, H, W] from which they are read; their uncertainty is read here as well.
    """

    trunk: TrunkOutput
    maps: DepthMaps
    cameras: PredictedCameras
    raw: Float[Tensor, "V 38 H W"] | None
    features: Float[Tensor, "V F/2 H W"] | None


class DepthAnything3Network(nn.Module):
    """Images, and cameras where they are known → depths, cameras and raw Gaussians."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.backbone = Trunk(architecture)
        self.head = DepthHead(architecture)
        self.cam_enc = CameraEncoder(architecture.width)
        self.cam_dec = CameraDecoder(2 * architecture.width)
        self.gs_head = GaussianHead(architecture) if architecture.gaussians else None

    def forward(
        self,
        images: Float[Tensor, "V 3 H W"],
        world_to_camera: Float[Tensor, "V 4 4"] | None = None,
        Ks: Float[Tensor, "V 3 3"] | None = None,
        from_rays: bool = False,
    ) -> DepthAnything3Output:
        """Predict one scene.

        Args:
            images: with ImageNet's mean and standard deviation taken out; H and W are multiples of 14.
            world_to_camera: OpenCV, with translations of the order of 1; None: not known.
            Ks: pixels; given with `world_to_camera`.
            from_rays: the cameras of the result are those of the predicted rays, not of the camera decoder.

        Raises:
            ValueError: a size that is no multiple of 14; poses without intrinsics or the reverse.
        """
        size = (images.shape[-2], images.shape[-1])
        if (world_to_camera is None) != (Ks is None):
            raise ValueError("Depth Anything 3 takes poses and intrinsics together, or neither")
        tokens = None
        if world_to_camera is not None and Ks is not None:
            with full_precision(images.device):
                tokens = self.cam_enc(world_to_camera, Ks, size)
        trunk = self.backbone(images, tokens)
        with full_precision(images.device):
            features = [layer.float() if layer.dtype is torch.bfloat16 else layer for layer in trunk.features]
            maps = self.head(features, size)
            if from_rays:
                with torch.no_grad():
                    cameras = cameras_from_rays(self.head.rays(features, size), size)
            else:
                cameras = self.cam_dec(trunk.camera.to(features[0].dtype), size)
            raw = decoded = None
            if self.gs_head is not None:
                raw, decoded = self.gs_head(features, images.to(features[0].dtype))
        return DepthAnything3Output(trunk, maps, cameras, raw, decoded)
