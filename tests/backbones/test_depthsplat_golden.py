# SPDX-License-Identifier: Apache-2.0
"""DepthSplat against the official code: keys and shapes, and outputs with weights filled by a rule."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from ns_diff3r.backbones.depthsplat import DepthSplatNetwork, Wiring
from ns_diff3r.backbones.depthsplat.gaussians import pixel_gaussians
from tests.backbones.golden import (
    Comparison,
    Golden,
    check_keys,
    fill,
    filled_value,
    golden_files,
    unknown_file,
    worst_inverse,
)

KEY_LISTS = {
    "small": Wiring.of_release("small", "re10k"),
    "base": Wiring.of_release("base", "re10k"),
    "large": Wiring.of_release("large", "re10k"),
    "small-dl3dv": Wiring.of_release("small", "dl3dv"),
    "base-dl3dv": Wiring.of_release("base", "dl3dv"),
    "vits_2scale_up2": Wiring("vits", upsample_factor=2, num_scales=2),
    "vits_2scale_up4": Wiring("vits", upsample_factor=4, num_scales=2),
}
RELEASED = re.compile(r"depthsplat_(small|base|large)_(re10k|dl3dv)_v\d+")
WIRED = re.compile(r"depthsplat_(vits|vitb|vitl)_([12])scale_up([248])_v\d+")
NETWORKS: dict[Wiring, DepthSplatNetwork] = {}


def on_meta(wiring: Wiring) -> DepthSplatNetwork:
    with torch.device("meta"):
        return DepthSplatNetwork(wiring).eval()


def filled(wiring: Wiring) -> DepthSplatNetwork:
    """Filled once a session: the generator of the weights takes longer than the network."""
    if wiring not in NETWORKS:
        NETWORKS[wiring] = on_meta(wiring)
        fill(NETWORKS[wiring])
    return NETWORKS[wiring]


def wiring_of(path: Path) -> Wiring:
    """By the file's name."""
    if released := RELEASED.fullmatch(path.stem):
        return Wiring.of_release(*released.groups())  # pyright: ignore[reportArgumentType]
    if wired := WIRED.fullmatch(path.stem):
        transformer, scales, upsample = wired.groups()
        return Wiring(transformer, int(upsample), int(scales))  # pyright: ignore[reportArgumentType]
    unknown_file(
        path, "depthsplat_{small,base,large}_{re10k,dl3dv}_v{V} and depthsplat_vit{s,b,l}_{1,2}scale_up{2,4,8}_v{V}"
    )


@pytest.mark.parametrize("name", KEY_LISTS)
def test_keys_and_shapes_are_the_official_ones(name):
    check_keys(on_meta(KEY_LISTS[name]), f"depthsplat_{name}")


@pytest.mark.parametrize("name", KEY_LISTS)
def test_the_wiring_is_read_off_the_shapes(name):
    shapes = {key: tuple(value.shape) for key, value in on_meta(KEY_LISTS[name]).state_dict().items()}
    assert Wiring.of_weights(shapes) == KEY_LISTS[name]


def test_the_rule_is_the_one_of_the_files():
    values = filled_value("depth_predictor.pretrained.blocks.0.ls1.gamma", (384,))
    np.testing.assert_allclose(values[:3], [0.2444199, 0.2650516, 0.2778551], atol=1e-7)
    values = filled_value("depth_predictor.backbone.conv1.weight", (64, 3, 7, 7))
    np.testing.assert_allclose(values.flatten()[:3], [0.0506128, 0.0293341, 0.0532079], atol=1e-7)


@pytest.mark.parametrize("path", golden_files("depthsplat"))
@torch.no_grad()
def test_outputs_are_the_official_ones(path):
    network = filled(wiring_of(path))
    golden = Golden.read(path)
    count = golden.num_views
    images = torch.from_numpy(np.random.Generator(np.random.PCG64(7)).random((count, 3, 64, 96)).astype(np.float32))
    camera_to_world = golden["extrinsics"][0]
    Ks = golden["intrinsics"][0] * torch.tensor([[96.0], [64.0], [1.0]])
    near, far = torch.full((count,), 0.5), torch.full((count,), 100.0)
    output = network(images, camera_to_world, Ks, near, far)
    gaussians = pixel_gaussians(output.raw, output.swept.depth, images, camera_to_world, Ks)

    errors = Comparison(golden)
    errors.add("mono3", output.swept.monocular[3][:, :8], 1e-4)
    errors.add("mv0", output.swept.named["m0"][:, :8], 1e-3)
    errors.add("match_prob_max", output.swept.match_probability, 1e-3)
    errors.add("dpt_feature", output.features[:, :8], 2e-3)
    errors.add("raw", output.raw, 5e-3)
    errors.add("depths", output.swept.depth, 1e-4, worst_inverse)
    errors.add("opacities", gaussians.opacities, 1e-3)
    errors.add("scales", gaussians.scales, 2e-3)
    errors.add("rotations_cam_xyzw", gaussians.camera_quats[:, [1, 2, 3, 0]], 2e-3)
    errors.add("harmonics", gaussians.harmonics.transpose(1, 2), 5e-3)
    errors.add("covariances", gaussians.covariances(), 5e-3, most_relative)
    errors.add("means", gaussians.means, 1e-3, partial(position_error, camera_to_world=camera_to_world))
    errors.check(inputs={"extrinsics", "intrinsics"})


def most_relative(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """The relative difference below which 99.9 % of the entries are."""
    return ((actual - expected).abs() / (expected.abs() + 1e-3)).flatten().double().quantile(0.999)


def position_error(actual: torch.Tensor, expected: torch.Tensor, camera_to_world: torch.Tensor) -> torch.Tensor:
    """Largest angle between the rays, or difference of inverse distances, from the camera of each point.

    Far points move by more than their rays do.
    """
    centers = camera_to_world[:, :3, 3].repeat_interleave(len(expected) // len(camera_to_world), dim=0)
    rays = [points.double() - centers for points in (actual, expected)]
    lengths = [ray.norm(dim=-1, keepdim=True) for ray in rays]
    angles = (rays[0] / lengths[0] - rays[1] / lengths[1]).abs().max()
    return torch.maximum(angles, (1 / lengths[0] - 1 / lengths[1]).abs().max())
