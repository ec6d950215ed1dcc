# SPDX-License-Identifier: Apache-2.0
"""DepthSplat as a backbone: any world scale, any image size, Gaussians in the standard conventions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from ...splats import Gaussians, Views
from ..blocks.numerics import full_precision
from ..pretrained import PretrainedBackbone, PretrainedConfig
from ..protocol import Backbone, Prediction
from ..weights.catalogue import DEPTHSPLAT, PublishedFile, official_for
from .gaussians import SH_DEGREE, PixelGaussians, pixel_gaussians
from .network import DepthSplatNetwork
from .wiring import Recipe, Size, Wiring

MIN_SIZE = 16
"""Smallest side of an image, in pixels."""


@dataclass
class DepthSplatConfig(PretrainedConfig):
    """Settings of DepthSplat; size and recipe choose one of the released models."""

    _target: type[Backbone] = field(default_factory=lambda: DepthSplatBackbone)
    size: Size = "small"
    """38, 121 or 354 million parameters."""
    recipe: Recipe = "re10k"
    """Resolutions of matching as in the models trained on RealEstate10K, or as in those trained on DL3DV (also together
    with RealEstate10K), for larger images."""
    upsample_factor: int | None = None
    """From the last plane sweep to the image: 2, 4 or 8. None: by the recipe."""
    num_scales: int | None = None
    """Plane sweeps, 1 or 2. None: by the recipe."""
    reference_near: float = 0.5
    """The network works in a world in which the nearest depth of the context is this long, as where it was trained, so
    that the world's own unit does not matter; 0: the world as it is."""
    largest_scale: float = 3.0
    """Largest standard deviation of a Gaussian, in that world's unit."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.reference_near < float("inf"):
            raise ValueError(f"DepthSplatConfig.reference_near must not be negative, not {self.reference_near}")
        if not self.largest_scale > 0.0:
            raise ValueError(f"DepthSplatConfig.largest_scale must be positive, not {self.largest_scale}")
        self.wiring()

    def official_file(self) -> PublishedFile | None:
        """See `PretrainedConfig`."""
        if self.wiring() != Wiring.of_release(self.size, self.recipe):
            return None
        return official_for(DEPTHSPLAT, size=self.size, recipe=self.recipe)

    def usual_size(self) -> int:
        """See `PretrainedConfig`."""
        return 256 if self.wiring().lowest == 4 else 448

    def wiring(self) -> Wiring:
        """What the shapes of the weights depend on."""
        wiring = Wiring.of_release(self.size, self.recipe)
        chosen = {"upsample_factor": self.upsample_factor, "num_scales": self.num_scales}
        return replace(wiring, **{name: value for name, value in chosen.items() if value is not None})


class DepthSplatBackbone(PretrainedBackbone):
    """One Gaussian per pixel of every view, in the order view, row, column.

    Images are continued at their right and lower border to the next multiple of the network's stride (16 or 32
    pixels), and what belongs to the continuation is dropped. Always computes in float32: depths do not survive less.
    """

    network: DepthSplatNetwork
    sh_degree = SH_DEGREE
    weights_prefixes = ("state_dict.encoder.", "encoder.")

    def __init__(self, config: DepthSplatConfig) -> None:
        super().__init__()
        self.config = config
        self.network = DepthSplatNetwork(config.wiring())
        self.feature_dim = self.network.wiring.gaussian_features

    def gaussian_head_parameters(self) -> Iterator[nn.Parameter]:
        """Decoder of Gaussians and the layers behind it: what stage 2 trains."""
        return self.network.gaussian_head_parameters()

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """DINOv2; what the official recipe calls "pretrained"."""
        return self.network.depth_predictor.pretrained.parameters()

    def forward(self, context: Views) -> Prediction:
        """One Gaussian per pixel.

        Raises:
            ValueError: fewer than two views, no near or far, images smaller than MIN_SIZE.
        """
        near, far = _checked_range(context)
        with full_precision(context.device):
            dtype = next(self.parameters()).dtype
            images = self._padded(context.images.to(dtype).permute(0, 3, 1, 2).clamp(0, 1))
            unit = self.config.reference_near / float(near.min()) if self.config.reference_near else 1.0
            origin = context.cameras.centers[0].detach().double()
            camera_to_world = _camera_to_world(context, origin, unit).to(dtype)
            Ks = context.cameras.Ks.detach().to(dtype)
            output = self.network(images, camera_to_world, Ks, (near * unit).to(dtype), (far * unit).to(dtype))

            def placed(depth: Float[Tensor, "V H W"]) -> Gaussians:
                limits = (1e-10, self.config.largest_scale)
                pixels = pixel_gaussians(output.raw, depth, images, camera_to_world, Ks, limits)
                return self._in_world(pixels, context, images.shape[-2:], origin, unit)

            coarse = tuple(placed(depth) for depth in output.swept.coarse) if self._trains_depth() else ()
            features = _cropped(output.features.permute(0, 2, 3, 1), context).flatten(0, 2)
            grid = (context.num_views, context.cameras.height, context.cameras.width)
            return Prediction(placed(output.swept.depth), features, grid, coarse=coarse)

    @staticmethod
    def identify(shapes: Mapping[str, Sequence[int]]) -> str | None:
        """See `PretrainedBackbone`."""
        wiring = Wiring.of_weights(shapes)
        return None if wiring is None else wiring.describe()

    def describe(self) -> str:
        """See `PretrainedBackbone`."""
        return self.network.wiring.describe()

    def _trains_depth(self) -> bool:
        """Whether the earlier sweep needs a loss of its own; no gradient comes to it from the last one."""
        watched = any(p.requires_grad for p in self.network.depth_predictor.regressor[0].parameters())
        return self.training and torch.is_grad_enabled() and watched

    def _padded(self, images: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V 3 h w"]:
        stride = self.network.wiring.stride
        height, width = images.shape[-2:]
        missing = (0, -width % stride, 0, -height % stride)
        return pad(images, missing, mode="replicate") if any(missing) else images.contiguous()

    def _in_world(
        self,
        pixels: PixelGaussians,
        context: Views,
        size: Sequence[int],
        origin: Float[Tensor, " 3"],
        unit: float,
    ) -> Gaussians:
        """Of the pixels that are not padding, in the world of the context cameras."""

        def kept(values: Float[Tensor, "N *shape"]) -> Float[Tensor, "M *shape"]:
            maps = values.unflatten(0, (context.num_views, *size))
            return _cropped(maps, context).flatten(0, 2)

        return Gaussians.from_activated(
            means=kept(pixels.means) / unit + origin.to(pixels.means),
            quats=kept(pixels.world_quats),
            scales=kept(pixels.scales) / unit,
            opacities=kept(pixels.opacities),
            sh=kept(pixels.standard_harmonics()),
        )


def _cropped(maps: Float[Tensor, "V h w *shape"], context: Views) -> Float[Tensor, "V H W *shape"]:
    return maps[:, : context.cameras.height, : context.cameras.width]


def _checked_range(context: Views) -> tuple[Float[Tensor, " V"], Float[Tensor, " V"]]:
    if context.num_views < 2:
        raise ValueError(f"DepthSplat needs at least two context views, got {context.num_views}")
    if context.near is None or context.far is None:
        raise ValueError(
            "DepthSplat needs the depth range of its context views: set Views.near and Views.far (for example from "
            "sparse points)"
        )
    height, width = context.cameras.height, context.cameras.width
    if min(height, width) < MIN_SIZE:
        raise ValueError(f"DepthSplat needs images of at least {MIN_SIZE} pixels a side, got {width}x{height}")
    return context.near.double(), context.far.double()


def _camera_to_world(context: Views, origin: Float[Tensor, " 3"], unit: float) -> Float[Tensor, "V 4 4"]:
    """Poses with `origin` at zero and lengths times `unit`, float64."""
    matrices = torch.linalg.inv(context.cameras.viewmats.detach().double())
    matrices[:, :3, 3] = (matrices[:, :3, 3] - origin) * unit
    return matrices
