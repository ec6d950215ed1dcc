# SPDX-License-Identifier: Apache-2.0
"""Depth Anything 3 against the official code: keys and shapes, and outputs with weights filled by a rule."""

import re

import numpy as np
import pytest
import torch

from ns_diff3r.backbones.depth_anything_3 import Architecture, DepthAnything3Network
from ns_diff3r.backbones.depth_anything_3.alignment import umeyama_scale
from ns_diff3r.backbones.depth_anything_3.gaussians import pixel_gaussians
from tests.backbones.golden import (
    Comparison,
    Golden,
    check_keys,
    fill,
    golden_files,
    unknown_file,
    worst_quaternion,
    worst_relative,
)

KEY_LISTS = {
    "da3-small_tinygs": Architecture("small"),
    "da3-base": Architecture("base", gaussians=False),
    "da3-giant": Architecture("giant"),
}
FILE = re.compile(r"da3_(small|base|large|giant)_gs_v\d+_cond([01])")
NETWORKS: dict[Architecture, DepthAnything3Network] = {}


def on_meta(architecture: Architecture) -> DepthAnything3Network:
    with torch.device("meta"):
        return DepthAnything3Network(architecture).eval()


def filled(architecture: Architecture) -> DepthAnything3Network:
    """Filled once a session: the generator of the weights takes longer than the network."""
    if architecture not in NETWORKS:
        NETWORKS[architecture] = on_meta(architecture)
        fill(NETWORKS[architecture])
    return NETWORKS[architecture]


@pytest.mark.parametrize("name", KEY_LISTS)
def test_keys_and_shapes_are_the_official_ones(name):
    network = on_meta(KEY_LISTS[name])
    check_keys(network, name)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert Architecture.of_weights(shapes) == KEY_LISTS[name]


@pytest.mark.parametrize("path", golden_files("da3"))
@torch.no_grad()
def test_outputs_are_the_official_ones(path):
    named = FILE.fullmatch(path.stem) or unknown_file(path, "da3_{small,base,large,giant}_gs_v{V}_cond{0,1}")
    network, with_poses = filled(Architecture(named.group(1))), named.group(2) == "1"
    golden = Golden.read(path)
    random = np.random.Generator(np.random.PCG64(11))
    images = torch.from_numpy(random.standard_normal((golden.num_views, 3, 56, 84)).astype(np.float32))
    given, Ks = (golden["w2c_in"][0], golden["K_in"][0]) if with_poses else (None, None)
    output = network(images, given, Ks)
    assert output.raw is not None
    assert output.features is not None
    scale = 1.0 if given is None else umeyama_scale(given, output.cameras.world_to_camera)
    gaussians = pixel_gaussians(output.raw, output.maps.depth, output.cameras, scale)

    errors = Comparison(golden)
    # The official code exports these in the order in which it works on the views.
    last = output.trunk.features[-1][output.trunk.order, :, network.architecture.width :]
    errors.add("feat11", last.unflatten(1, (4, 6))[..., :16], 1e-3)
    errors.add("depth", output.maps.depth, 1e-3)
    errors.add("depth_conf", output.maps.confidence, 1e-3)
    errors.add("extrinsics", output.cameras.world_to_camera[:, :3], 1e-4)
    errors.add("intrinsics", output.cameras.Ks, 1e-4, worst_relative)
    errors.add("gs_dpt_feature", output.features[:, :8], 2e-3)
    errors.add("gs_raw", output.raw, 2e-3)
    errors.add("means", gaussians.means, 1e-3)
    errors.add("scales", gaussians.scales, 1e-4)
    errors.add("rotations", gaussians.quats, 1e-3, worst_quaternion)
    errors.add("harmonics", gaussians.harmonics.transpose(1, 2), 1e-3)
    errors.add("opacities", gaussians.opacities, 1e-4)
    errors.check(inputs={"w2c_in", "K_in"})
