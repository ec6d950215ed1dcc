# SPDX-License-Identifier: Apache-2.0
"""A renderer that is a small dense matrix, for tests whose answers linear algebra knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ns_diff3r.rasterization.protocol import GaussianBlocks, Rendering
from ns_diff3r.solver.image_loss import ImageLoss, ImageObjective
from ns_diff3r.solver.problem import SceneProblem
from ns_diff3r.splats import Cameras, Gaussians

BLOCK_GROUPS = ("means", "quats", "scales", "opacities")


def random_gaussians(num: int, sh_degree: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    size = num * (14 + 3 * ((sh_degree + 1) ** 2 - 1))
    return Gaussians.from_flat(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype), num, sh_degree)


class DenseRenderer:
    """rgb = offset + J θ + ½ bend · (J θ)², a linear map where bend is 0; with the columns of some Gaussians zero."""

    def __init__(
        self,
        template: Gaussians,
        image: tuple[int, int, int] = (2, 4, 5),
        seed: int = 0,
        bend: float = 0.0,
        unseen: tuple[int, ...] = (),
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.shape = (*image, 3)
        rows = image[0] * image[1] * image[2] * 3
        matrix = torch.randn(rows, template.num_parameters, generator=generator, dtype=torch.float64)
        matrix /= template.num_parameters**0.5
        self.visible = torch.ones(template.num_gaussians, dtype=torch.bool)
        self.visible[list(unseen)] = False
        seen = template.map(lambda leaf: torch.zeros_like(leaf) + self.visible.view(-1, *[1] * (leaf.ndim - 1)))
        self.matrix = (matrix * seen.flatten().double()).to(template.dtype)
        self.offset = torch.rand(self.shape, generator=generator, dtype=torch.float64).to(template.dtype)
        self.bend = bend

    def __call__(self, gaussians: Gaussians) -> DenseLinearization:
        return DenseLinearization(self, gaussians.detach())

    def image(self, flat: Tensor) -> Tensor:
        linear = self.matrix @ flat
        return self.offset + (linear + 0.5 * self.bend * linear**2).view(self.shape)


class DenseLinearization:
    """`protocol.Linearization` of a `DenseRenderer`."""

    cameras: Cameras
    config: Any = None

    def __init__(self, renderer: DenseRenderer, gaussians: Gaussians) -> None:
        self.renderer, self.gaussians = renderer, gaussians
        self.visible = renderer.visible
        linear = renderer.matrix @ gaussians.flatten()
        self.jacobian = (1 + renderer.bend * linear)[:, None] * renderer.matrix
        self.rgb = renderer.image(gaussians.flatten())

    def render(self, gaussians: Gaussians) -> Rendering:
        return Rendering(self.renderer.image(gaussians.flatten()), torch.empty(0), torch.empty(0))

    def at(self, gaussians: Gaussians, freeze: str | None = None) -> DenseLinearization:
        return DenseLinearization(self.renderer, gaussians)

    def jvp(self, v: Gaussians) -> Tensor:
        return (self.jacobian @ v.flatten()).view(self.renderer.shape)

    def vjp(self, u: Tensor) -> Gaussians:
        return self.gaussians.unflatten(self.jacobian.T @ u.reshape(-1))

    def vjp_cameras(self, u: Tensor) -> Tensor:
        raise NotImplementedError

    def gauss_newton(self, v: Gaussians, weights: Any) -> Gaussians:
        image = self.jvp(v)
        return self.vjp(weights * image if isinstance(weights, Tensor) else weights(image))

    def _diagonal_weights(self, weights: Any) -> Tensor:
        return (weights if isinstance(weights, Tensor) else weights.diagonal()).reshape(-1, 1)

    def diagonal(self, weights: Any) -> Gaussians:
        return self.gaussians.unflatten((self._diagonal_weights(weights) * self.jacobian**2).sum(0))

    def blocks(self, weights: Any) -> GaussianBlocks:
        dense = self.jacobian.T @ (self._diagonal_weights(weights) * self.jacobian)
        geometry, colour = block_indices(self.gaussians)
        return GaussianBlocks(
            dense[geometry[:, :, None], geometry[:, None, :]], dense[colour[..., :, None], colour[..., None, :]]
        )

    def vjp_tangent(self, v: Gaussians, u: Tensor, du: Tensor) -> Gaussians:
        second = self.renderer.bend * (self.renderer.matrix @ v.flatten()) * u.reshape(-1)
        return self.gaussians.unflatten(self.jacobian.T @ du.reshape(-1) + self.renderer.matrix.T @ second)


def block_indices(gaussians: Gaussians) -> tuple[Tensor, Tensor]:
    """Flat indices of every geometry block [N, 11] and of every colour block [N, 3, K]."""
    indices = gaussians.unflatten(torch.arange(gaussians.num_parameters).double())
    rows = [leaf.reshape(gaussians.num_gaussians, -1) for name, leaf in indices.items() if name in BLOCK_GROUPS]
    colour = torch.cat([indices.sh0, indices.shN], dim=1).transpose(1, 2)
    return torch.cat(rows, dim=1).long(), colour.long()


def dense_scene(
    template: Gaussians, renderer: DenseRenderer, loss: ImageLoss, noise: float = 0.1, seed: int = 5
) -> SceneProblem:
    """A problem whose photographs are the rendering of `template` with noise."""
    generator = torch.Generator().manual_seed(seed)
    image = renderer.image(template.flatten())
    target = image + noise * torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image)
    return SceneProblem(ImageObjective(loss, target), renderer)
