# SPDX-License-Identifier: Apache-2.0
"""Depth Anything 3 as a backbone: cameras given or predicted, Gaussians in the world of the context cameras."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ...splats import Cameras, Views
from ..blocks import PATCH_SIZE
from ..blocks.numerics import full_precision, normalized
from ..pretrained import PretrainedBackbone, PretrainedConfig
from ..protocol import Backbone, Prediction
from ..weights.catalogue import DEPTH_ANYTHING_3, PublishedFile, official_for
from .alignment import aligning_similarity
from .architecture import Architecture, Size
from .cameras import rigid_inverse
from .gaussians import SH_DEGREE, pixel_gaussians
from .network import DepthAnything3Network

MIN_SIZE = PATCH_SIZE
"""Smallest side of an image, in pixels."""


@dataclass
class DepthAnything3Config(PretrainedConfig):
    """Settings of Depth Anything 3 with a Gaussian head."""

    _target: type[Backbone] = field(default_factory=lambda: DepthAnything3Backbone)
    size: Size = "giant"
    """Of the released models only giant has a Gaussian head; small (37 million parameters), base and large begin with
    a random one."""
    poses: Literal["predicted", "given"] = "predicted"
    """Whether the network is told the poses of the context, or predicts them. Gaussians are placed by predicted poses
    in both cases, as in the official code, and brought into the world of the given ones by one similarity."""
    poses_from: Literal["decoder", "rays"] = "decoder"
    """How predicted poses are read: by the network's camera decoder, or fitted to the rays that it predicts for every
    pixel. Rays are said to be more accurate and take a little longer; training does not change them."""
    max_size: int = 504
    """Longest side that the network sees; larger images are made smaller. Sides become multiples of 14."""

    def __post_init__(self) -> None:
        if self.poses not in ("predicted", "given"):
            raise ValueError(f'DepthAnything3Config.poses is "predicted" or "given", not {self.poses!r}')
        if self.poses_from not in ("decoder", "rays"):
            raise ValueError(f'DepthAnything3Config.poses_from is "decoder" or "rays", not {self.poses_from!r}')
        if self.max_size < MIN_SIZE:
            raise ValueError(f"DepthAnything3Config.max_size must be at least {MIN_SIZE}, not {self.max_size}")
        self.architecture()

    def official_file(self) -> PublishedFile | None:
        """See `PretrainedConfig`."""
        return official_for(DEPTH_ANYTHING_3, size=self.size)

    def usual_size(self) -> int:
        """See `PretrainedConfig`."""
        return self.max_size

    def architecture(self) -> Architecture:
        """What the shapes of the weights depend on."""
        return Architecture(self.size)


class DepthAnything3Backbone(PretrainedBackbone):
    """One Gaussian per pixel of the images as the network sees them, in the order view, row, column.

    Images are resized to multiples of 14 pixels. The context's cameras are needed only to say in which world the
    Gaussians shall be: where all of them are equal (photographs without poses), the world is that of the first.
    """

    network: DepthAnything3Network
    sh_degree = SH_DEGREE
    weights_prefixes = ("model.",)
    optional_parts = ("gs_head.",)

    def __init__(self, config: DepthAnything3Config) -> None:
        super().__init__()
        self.config = config
        self.network = DepthAnything3Network(config.architecture())
        self.feature_dim = self.network.architecture.features // 2
        self.predicts_cameras = config.poses == "predicted"

    def gaussian_head_parameters(self) -> Iterator[nn.Parameter]:
        """What stage 2 trains."""
        assert self.network.gs_head is not None
        return self.network.gs_head.parameters()

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """DINOv2 with its attention over views."""
        return self.network.backbone.parameters()

    def idle_parameters(self) -> Iterator[nn.Parameter]:
        """Rays, fields of view (the official Gaussians stop their gradient), and tokens of the other kind of poses."""
        tokens = self.network.backbone.pretrained.camera_token
        other = self.network.cam_enc.parameters() if self.config.poses == "predicted" else iter([tokens])
        decoder = self.network.cam_dec if self.config.poses_from == "rays" else self.network.cam_dec.fc_fov
        return chain(self.network.head.ray_parameters(), decoder.parameters(), other)

    def forward(self, context: Views) -> Prediction:
        """One Gaussian per pixel, and the cameras by which they were placed.

        Raises:
            ValueError: no view, or images smaller than MIN_SIZE.
        """
        cameras = context.cameras
        if context.num_views < 1:
            raise ValueError("Depth Anything 3 needs at least one context view")
        if min(cameras.height, cameras.width) < MIN_SIZE:
            size = f"{cameras.width}x{cameras.height}"
            raise ValueError(f"Depth Anything 3 needs images of at least {MIN_SIZE} pixels a side, got {size}")
        dtype = next(self.parameters()).dtype
        images = self._resized(context.images.to(dtype).permute(0, 3, 1, 2).clamp(0, 1))
        size = (images.shape[-2], images.shape[-1])
        given = Ks = None
        if self.config.poses == "given":
            given = _normalized_poses(cameras.viewmats.detach().double()).to(dtype)
            Ks = _scaled(cameras.Ks.detach().to(dtype), size[1] / cameras.width, size[0] / cameras.height)
        output = self.network(normalized(images), given, Ks, from_rays=self.config.poses_from == "rays")
        assert output.raw is not None
        assert output.features is not None
        with full_precision(context.device):
            gaussians = pixel_gaussians(output.raw, output.maps.depth, output.cameras).gaussians()
            world = aligning_similarity(cameras.viewmats, output.cameras.world_to_camera)
            gaussians = world.apply_gaussians(gaussians)
            Ks = _scaled(output.cameras.Ks.detach(), cameras.width / size[1], cameras.height / size[0])
            placed = Cameras(output.cameras.world_to_camera.detach(), Ks, cameras.width, cameras.height)
            placed = world.apply_cameras(placed).to(dtype=cameras.dtype)
        features = output.features.permute(0, 2, 3, 1).flatten(0, 2)
        return Prediction(gaussians, features, (context.num_views, *size), cameras=placed)

    @staticmethod
    def identify(shapes: Mapping[str, Sequence[int]]) -> str | None:
        """See `PretrainedBackbone`."""
        architecture = Architecture.of_weights(shapes)
        return None if architecture is None else architecture.describe()

    def describe(self) -> str:
        """See `PretrainedBackbone`."""
        return self.network.architecture.describe()

    def _resized(self, images: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V 3 h w"]:
        height, width = images.shape[-2:]
        factor = min(1.0, self.config.max_size / max(height, width))
        size = tuple(max(1, round(side * factor / PATCH_SIZE)) * PATCH_SIZE for side in (height, width))
        if size == (height, width):
            return images
        return interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)


def _scaled(Ks: Float[Tensor, "V 3 3"], across: float, down: float) -> Float[Tensor, "V 3 3"]:
    """Intrinsics of resized images."""
    return Ks * Ks.new_tensor([across, down, 1.0])[:, None]


def _normalized_poses(world_to_camera: Float[Tensor, "V 4 4"]) -> Float[Tensor, "V 4 4"]:
    """The first camera at rest; the median distance of the cameras from it is 1.

    With two views the median is that of the first from itself; the other's distance is taken then.
    """
    relative = world_to_camera @ rigid_inverse(world_to_camera[:1])
    distances = rigid_inverse(relative)[:, :3, 3].norm(dim=-1)
    length = distances.median() if distances.median() > 0 else distances.max()
    if length > 0:
        relative[:, :3, 3] /= length
    return relative
