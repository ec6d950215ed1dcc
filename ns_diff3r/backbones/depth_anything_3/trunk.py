# SPDX-License-Identifier: Apache-2.0
"""DA3's trunk: a DINOv2 whose blocks, from some block on, look in turn at one view and at all views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..blocks import PATCH_SIZE, VisionTransformer
from ..blocks.rotary import RotaryAngles, rotary_angles
from .architecture import Architecture

REFERENCE_FROM = 3
"""With at least this many views and no poses, a view in the middle of the others is taken as the reference."""


@dataclass(frozen=True, eq=False)
class TrunkOutput:
    """Tokens of the views, in the order they came in.

    Attributes:
        features: per output layer [V, N, 2C] of the patches: those of the last block of one view beside those of the
            layer, the latter after the final norm.
        camera: [V, 2C] of the last layer's class tokens, not normed.
        order: [V] the order in which the network worked on the views, the reference first.
    """

    features: list[Float[Tensor, "V N 2*C"]]
    camera: Float[Tensor, "V 2*C"]
    order: Int[Tensor, " V"]


class AlternatingTransformer(VisionTransformer):
    """See the module."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture.transformer)
        self.architecture = architecture
        self.camera_token = nn.Parameter(torch.randn(1, 2, architecture.width))

    def forward(self, images: Float[Tensor, "V 3 H W"], camera_tokens: Float[Tensor, "V C"] | None) -> TrunkOutput:
        """Tokens of normalised images; `camera_tokens` encode their cameras where these are known."""
        tokens = self.tokens(images)
        num_views = len(tokens)
        rows, columns = images.shape[-2] // PATCH_SIZE, images.shape[-1] // PATCH_SIZE
        head = self.config.width // self.config.num_heads
        local_angles, global_angles = _angles(rows, columns, num_views, head, tokens)
        start = self.architecture.alternating_from
        order = torch.arange(num_views, device=tokens.device)
        local = tokens
        features: list[Tensor] = []
        camera = tokens[:, 0]
        for index, block in enumerate(self.blocks):
            if index == start - 1 and num_views >= REFERENCE_FROM and camera_tokens is None:
                reference = reference_view(tokens[:, 0])
                order = torch.cat([order[reference : reference + 1], order[:reference], order[reference + 1 :]])
                tokens = tokens[order]
            if index == start:
                tokens = torch.cat([self._camera_tokens(camera_tokens, num_views)[:, None], tokens[:, 1:]], dim=1)
            if index >= start and index % 2 == 1:
                tokens = block(tokens.flatten(0, 1)[None], global_angles)[0].unflatten(0, (num_views, -1))
            else:
                tokens = local = block(tokens, local_angles if index >= start else None)
            if index in self.architecture.layers:
                back = order.argsort()
                features.append(torch.cat([local[back, 1:], self.norm(tokens[back, 1:])], dim=-1))
                camera = torch.cat([local[back, 0], tokens[back, 0]], dim=-1)
        return TrunkOutput(features, camera, order)

    def _camera_tokens(self, given: Float[Tensor, "V C"] | None, num_views: int) -> Float[Tensor, "V C"]:
        if given is not None:
            return given
        reference, other = self.camera_token[0]
        return torch.cat([reference[None], other.expand(num_views - 1, -1)])


class Trunk(nn.Module):
    """Holds the transformer under its official name."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.pretrained = AlternatingTransformer(architecture)

    def forward(
        self, images: Float[Tensor, "V 3 H W"], camera_tokens: Float[Tensor, "V C"] | None = None
    ) -> TrunkOutput:
        """See `AlternatingTransformer`."""
        return self.pretrained(images, camera_tokens)


@torch.no_grad()
def reference_view(class_tokens: Float[Tensor, "V C"]) -> int:
    """The view that is most in the middle of the others ("saddle_balanced").

    By three measures of its class token, each scaled to [0, 1] over the views: mean cosine similarity to the others,
    norm, and variance of the channels after normalisation. Taken is the least sum of distances to 0.5.
    """
    norms = class_tokens.norm(dim=-1)
    units = class_tokens / norms[:, None]
    similarity = units @ units.T
    similarity = (similarity - torch.eye(len(units), device=units.device)).sum(dim=-1) / (len(units) - 1)

    def distance(measure: Float[Tensor, " V"]) -> Float[Tensor, " V"]:
        low, high = measure.aminmax()
        return ((measure - low) / (high - low + 1e-8) - 0.5).abs()

    return int((distance(similarity) + distance(norms) + distance(units.var(dim=-1))).argmin())


def _angles(rows: int, columns: int, num_views: int, channels: int, like: Tensor) -> tuple[RotaryAngles, RotaryAngles]:
    """Of one view's tokens, patches from (1, 1) on, and of all views', every patch at (1, 1); class tokens at 0."""
    device = like.device
    patches = torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device)) + 1
    class_token = patches.new_zeros(1, 2)
    local = torch.cat([class_token, patches])
    everywhere = torch.cat([class_token, torch.ones_like(patches)]).repeat(num_views, 1)
    return rotary_angles(local, channels, like.dtype), rotary_angles(everywhere, channels, like.dtype)
