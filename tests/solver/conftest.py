# SPDX-License-Identifier: Apache-2.0
"""Scenes for the layer whose renderer is a matrix."""

from collections.abc import Callable

import pytest
import torch

from ns_diff3r.splats import Cameras, Gaussians, Views
from tests.solver.dense_problem import DenseRenderer, random_gaussians

IMAGE = (2, 4, 5)


@pytest.fixture
def dense(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Gaussians, Views, DenseRenderer]]:
    """Makes scenes whose renderer is a matrix, chosen by the number of Gaussians, and has the layer draw with it."""
    renderers: dict[int, DenseRenderer] = {}

    def make_linearizer(config, cameras, template):
        return renderers[template.num_gaussians]

    monkeypatch.setattr("ns_diff3r.solver.scene_job.make_linearizer", make_linearizer)

    def make(
        num: int = 4,
        image: tuple[int, int, int] = IMAGE,
        unseen: tuple[int, ...] = (),
        bend: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> tuple[Gaussians, Views, DenseRenderer]:
        init = random_gaussians(num, 1, seed=num, dtype=dtype)
        renderers[num] = DenseRenderer(init, image=image, seed=num, unseen=unseen, bend=bend)
        # Photographs must lie in [0, 1]; the dense renderer's do not care.
        images = torch.rand((*image, 3), generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)
        viewmats = torch.eye(4, dtype=dtype).repeat(image[0], 1, 1)
        Ks = torch.tensor([[5.0, 0, 2.5], [0, 5.0, 2.0], [0, 0, 1]], dtype=dtype).repeat(image[0], 1, 1)
        return init, Views(images, Cameras(viewmats, Ks, width=image[2], height=image[1])), renderers[num]

    return make
