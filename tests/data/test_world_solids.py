# SPDX-License-Identifier: Apache-2.0
"""Solids of generated scenes against marching along the ray, and their surfaces against finite differences."""

import numpy as np
import pytest
import torch

from ns_diff3r.data.worlds.solids import Shape, Solid, SolidTable, first_hits, intersect
from ns_diff3r.data.worlds.world import random_rotation


def random_solid(seed: int, shape: Shape, inside: bool = False) -> Solid:
    g = np.random.default_rng(seed)
    return Solid(shape, g.normal(0, 0.3, 3), random_rotation(g), g.uniform(0.4, 1.3, 3), (0, 1, 2, 3, 4, 5), inside)


def holds(solid: Solid, points: np.ndarray) -> np.ndarray:
    """Whether world points [n, 3] are inside, straight from the definition of the unit shapes."""
    p = (points - solid.center) @ solid.rotation / solid.half
    if solid.shape is Shape.BALL:
        return np.asarray((p * p).sum(1) <= 1)
    if solid.shape is Shape.BOX:
        return np.asarray((np.abs(p) <= 1).all(1))
    return np.asarray(((p[:, :2] ** 2).sum(1) <= 1) & (np.abs(p[:, 2]) <= 1))


def rays(seed: int, count: int, radius: float) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(3, count, generator=g), dim=0) * radius
    towards = 0.7 * torch.randn(3, count, generator=g) - origins
    return origins, towards / 2  # of any length: distances are in units of the direction


@pytest.mark.parametrize("shape", [Shape.BALL, Shape.BOX, Shape.CYLINDER])
def test_rays_from_outside_meet_the_surface_where_marching_enters(shape):
    solid = random_solid(int(shape), shape)
    origins, directions = rays(1, 60, 4.0)
    distance = intersect(solid, torch.from_numpy(solid.to_local).float(), origins, directions).numpy()
    steps = np.linspace(0, 5, 5001)
    for ray in range(60):
        along = origins[:, ray].numpy() + steps[:, None] * directions[:, ray].numpy()
        within = holds(solid, along)
        if within.any():
            assert distance[ray] == pytest.approx(steps[within.argmax()], abs=2.1e-3)
        else:
            assert np.isinf(distance[ray])
    assert 10 < np.isfinite(distance).sum() < 60


@pytest.mark.parametrize("shape", [Shape.BALL, Shape.BOX])
def test_rays_from_within_meet_the_surface_where_marching_leaves(shape):
    solid = random_solid(7, shape, inside=True)
    origins = torch.from_numpy(solid.center).float()[:, None].expand(3, 40)
    directions = torch.randn(3, 40, generator=torch.Generator().manual_seed(2))
    distance = intersect(solid, torch.from_numpy(solid.to_local).float(), origins, directions).numpy()
    assert np.isfinite(distance).all()
    for share, expected in ((0.999, True), (1.001, False)):
        points = (origins + share * torch.from_numpy(distance) * directions).T.double().numpy()
        assert (holds(solid, points) == expected).all()


def test_a_plane_is_met_from_both_sides_and_not_behind():
    solid = Solid(Shape.PLANE, np.array([0, 0, 1.0]), np.eye(3), np.ones(3), (0,) * 6)
    origins = torch.tensor([[0.0, 0, 3], [0, 0, -1], [0, 0, 3]]).T
    directions = torch.tensor([[0.0, 1, -2], [1, 0, 1], [0, 0, 1]]).T
    assert intersect(solid, torch.eye(3), origins, directions).tolist() == [1.0, 2.0, float("inf")]


@pytest.mark.parametrize("shape", list(Shape))
def test_normals_are_at_right_angles_to_the_surface_and_face_the_viewer(shape):
    solid = random_solid(3, shape)
    table = SolidTable.of([solid])
    origins, directions = rays(5, 300, 4.0)
    directions = directions * 2
    distance, which = first_hits([solid], table, origins, directions)
    near = torch.stack([first_hits([solid], table, origins, directions + d[:, None])[0] for d in 1e-3 * torch.eye(3)])
    hit = (which == 0) & near.isfinite().all(0)
    points = origins + distance * directions
    normals, materials, u, v = table.surface(which[hit], points[:, hit], directions[:, hit])
    assert ((normals * directions[:, hit]).sum(0) < 0).all()
    moved = torch.stack([origins + near[i] * (directions + d[:, None]) for i, d in enumerate(1e-3 * torch.eye(3))])
    along = torch.nn.functional.normalize((moved - points)[:, :, hit], dim=1)
    smooth = ((along * normals).sum(1).abs() < 0.03).all(0)
    assert smooth.float().mean() > 0.9  # but for rays beside an edge
    assert materials.max() <= (0 if shape in (Shape.BALL, Shape.PLANE) else 5)
    assert u.isfinite().all()
    assert v.isfinite().all()


def test_faces_have_their_own_materials():
    solid = Solid(Shape.BOX, np.zeros(3), np.eye(3), np.array([1.0, 2.0, 3.0]), (10, 11, 12, 13, 14, 15))
    points = torch.tensor([[-1.0, 0, 0], [1, 0, 0], [0, -2, 0], [0, 2, 0], [0, 0, -3], [0.5, 1.0, 3]]).T
    _, materials, u, v = SolidTable.of([solid]).surface(torch.zeros(6, dtype=torch.long), points, -points)
    assert materials.tolist() == [10, 11, 12, 13, 14, 15]
    assert (u[5].item(), v[5].item()) == (0.5, 1.0)  # world units


def test_the_first_of_several_solids_is_found():
    solids = [Solid(Shape.BALL, np.array([0, 0, z]), np.eye(3), 0.5 * np.ones(3), (0,) * 6) for z in (5.0, 3.0, 7.0)]
    distance, which = first_hits(
        solids, SolidTable.of(solids), torch.zeros(3, 2), torch.tensor([[0.0, 0, 1], [0, 0, -1]]).T
    )
    assert which.tolist() == [1, -1]
    assert distance[0].item() == pytest.approx(2.5)
    assert distance[1].isinf()
