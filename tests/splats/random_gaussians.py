# SPDX-License-Identifier: Apache-2.0
"""Random values for the tests of the containers."""

import torch

from ns_diff3r.splats import Cameras, Gaussians
from ns_diff3r.splats.rotations import quats_to_rotations


def random_gaussians(num: int = 7, sh_degree: int = 2, dtype: torch.dtype = torch.float64, seed: int = 0) -> Gaussians:
    """Raw parameters of order one, each leaf in a storage of its own."""
    random = torch.Generator().manual_seed(seed)
    rest = (sh_degree + 1) ** 2 - 1
    shapes = [(num, 3), (num, 4), (num, 3), (num,), (num, 1, 3), (num, rest, 3)]
    return Gaussians(*(torch.randn(*shape, generator=random, dtype=torch.float64).to(dtype) for shape in shapes))


def random_cameras(num: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0) -> Cameras:
    """Cameras with any rotation, centres of order one, 40 × 30 pixels."""
    random = torch.Generator().manual_seed(seed)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(num, 1, 1)
    viewmats[:, :3, :3] = quats_to_rotations(torch.randn(num, 4, generator=random, dtype=torch.float64))
    viewmats[:, :3, 3] = torch.randn(num, 3, generator=random, dtype=torch.float64)
    Ks = torch.tensor([[30.0, 0, 19.5], [0, 31.0, 15.25], [0, 0, 1]], dtype=torch.float64).repeat(num, 1, 1)
    return Cameras(viewmats.to(dtype), Ks.to(dtype), width=40, height=30)


def assert_same(actual: Gaussians, expected: Gaussians, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Every leaf equal, exactly unless tolerances are given."""
    for (name, a), (_, b) in zip(actual.items(), expected.items(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
