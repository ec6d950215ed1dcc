# SPDX-License-Identifier: Apache-2.0
"""The model: what nerfstudio draws, exports, saves and asks of a SplatfactoModel."""

import sys
from dataclasses import replace

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

from nerfstudio.data.scene_box import OrientedBox  # noqa: E402
from nerfstudio.models.splatfacto import SplatfactoModel  # noqa: E402

from ns_diff3r import render  # noqa: E402
from ns_diff3r.model import ActiveScene  # noqa: E402
from ns_diff3r.nerfstudio_cameras import from_cameras, to_cameras  # noqa: E402
from ns_diff3r.splats.spherical_harmonics import SH_C0  # noqa: E402
from tests.nerfstudio.conftest import ROOM, make_pipeline, small_config  # noqa: E402
from tests.scenes import make_scene  # noqa: E402


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    pipeline = make_pipeline(small_config(ROOM, tmp_path_factory.mktemp("model")))
    pipeline.eval()
    return pipeline


@pytest.fixture
def model(pipeline):
    """A model that shows a known scene: before is black, after is as made."""
    model = pipeline.model
    gaussians, cameras = make_scene(sh_degree=1, num_gaussians=60, dtype=torch.float32)
    black = replace(gaussians, sh0=torch.full_like(gaussians.sh0, -10.0))
    prior = {name: torch.rand(60, 1) + 0.1 for name in ("means", "quats", "scales", "opacities", "sh0", "shN")}
    model.scene = ActiveScene(black, gaussians, prior)
    model.show_after, model.crop_box, model.background_color = True, None, torch.zeros(3)
    model.test_cameras = from_cameras(cameras)
    return model


def test_it_is_what_ns_export_and_the_viewer_ask_for(model):
    assert isinstance(model, SplatfactoModel)
    gaussians = model.scene.after
    assert torch.equal(model.means, gaussians.means)
    assert torch.equal(model.opacities, gaussians.opacities[:, None])
    assert torch.equal(model.scales, gaussians.scales)
    assert torch.equal(model.shs_0, gaussians.sh0[:, 0])
    assert torch.equal(model.shs_rest, gaussians.shN)
    assert model.shs_rest.shape[1] == (model.config.sh_degree + 1) ** 2 - 1
    torch.testing.assert_close(model.colors, gaussians.sh0[:, 0] * SH_C0 + 0.5)
    torch.testing.assert_close(model.quats.norm(dim=-1), torch.ones(60))
    assert model.num_points == 60
    assert not hasattr(model, "camera_optimizer")


def test_outputs_are_our_rendering_of_the_scene_on_show(model):
    camera = model.test_cameras[1:2]
    outputs = model.get_outputs_for_camera(camera)
    expected = render(model.scene.after, to_cameras(camera))
    torch.testing.assert_close(outputs["rgb"], expected.rgb[0].clamp(0, 1))
    torch.testing.assert_close(outputs["depth"], expected.depth[0])
    torch.testing.assert_close(outputs["accumulation"], expected.alpha[0])
    for name, channels in (("rgb", 3), ("depth", 1), ("accumulation", 1), ("uncertainty", 1), ("error", 1)):
        assert outputs[name].shape == (35, 45, channels), name
    assert outputs["uncertainty"].min() >= 0
    assert outputs["uncertainty"].max() <= 1.0 + 1e-5
    assert outputs["uncertainty"].max() > 0.1


def test_before_and_after(model):
    camera = model.test_cameras[:1]
    after = model.get_outputs_for_camera(camera)["rgb"]
    model.show_after = False
    assert model.get_outputs_for_camera(camera)["rgb"].max() == 0
    assert torch.equal(model.means, model.scene.before.means)
    model.show_after = True
    assert torch.equal(model.get_outputs_for_camera(camera)["rgb"], after)
    assert after.max() > 0.1


def test_uncertainty_of_another_group(model):
    camera = model.test_cameras[:1]
    maps = []
    for model.uncertainty_group in ("means", "scales"):
        maps.append(model.get_outputs_for_camera(camera)["uncertainty"])
    model.uncertainty_group = "means"
    assert not torch.equal(*maps)


def test_background_and_rgba(model):
    camera = model.test_cameras[:1]
    black = model.get_outputs_for_camera(camera)
    model.set_background(torch.tensor([0.2, 0.4, 0.9]))
    colored = model.get_outputs_for_camera(camera)
    expected = black["rgb"] + (1 - black["accumulation"]) * torch.tensor([0.2, 0.4, 0.9])
    torch.testing.assert_close(colored["rgb"], expected.clamp(0, 1), atol=1e-5, rtol=0)
    rgba = model.get_rgba_image(colored)
    assert rgba.shape == (35, 45, 4)
    # Where the colour behind the coverage is one that an image can hold.
    sound = ((black["rgb"] <= black["accumulation"]) & (colored["rgb"] < 1)).all(-1) & (rgba[..., 3] > 0.2)
    assert sound.float().mean() > 0.2
    torch.testing.assert_close((rgba[..., :3] * rgba[..., 3:])[sound], black["rgb"][sound], atol=1e-4, rtol=0)


def test_crop_box(model):
    camera = model.test_cameras[:1]
    everything = model.get_outputs_for_camera(camera)
    box = OrientedBox.from_params((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (200.0, 200.0, 200.0))
    assert torch.equal(model.get_outputs_for_camera(camera, box)["rgb"], everything["rgb"])
    nowhere = OrientedBox.from_params((500.0, 0.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    nothing = model.get_outputs_for_camera(camera, nowhere)
    assert nothing["accumulation"].max() == 0
    assert set(nothing) == set(everything)
    middle = float(model.scene.after.means[:, 0].median())
    half = OrientedBox.from_params((middle + 100.0, 0.0, 0.0), (0.0, 0.0, 0.0), (200.0, 400.0, 400.0))
    kept = model.scene.after[model.scene.after.means[:, 0] > middle]
    expected = render(kept, to_cameras(camera)).rgb[0].clamp(0, 1)
    torch.testing.assert_close(model.get_outputs_for_camera(camera, half)["rgb"], expected)
    assert torch.equal(model.get_outputs_for_camera(camera)["rgb"], everything["rgb"])  # the box is gone again


def test_an_interrupted_rendering_leaves_nothing_behind(model):
    """The viewer raises from a trace function at any line of Python while it renders."""
    camera = model.test_cameras[:1]
    expected = model.get_outputs_for_camera(camera)["rgb"]

    class Moved(Exception):
        pass

    for line in range(0, 120, 7):
        left = line

        def trace(frame, event, argument):
            nonlocal left
            if event == "line":
                left -= 1
                if left < 0:
                    raise Moved
            return trace

        sys.settrace(trace)
        try:
            model.get_outputs_for_camera(camera)
        except Moved:
            pass
        finally:
            sys.settrace(None)
        assert torch.equal(model.get_outputs_for_camera(camera)["rgb"], expected)


def test_before_there_is_a_scene_there_is_one_invisible_gaussian(model):
    scene = model.scene
    model.scene = ActiveScene.nothing()
    outputs = model.get_outputs_for_camera(model.test_cameras[:1])
    assert model.means.numpy(force=True).shape == (1, 3)
    assert outputs["accumulation"].max() < 1e-3
    assert outputs["uncertainty"].max() == outputs["error"].max() == 0
    model.scene = scene


def test_maps_can_be_left_out(model):
    model.config.maps = False
    assert set(model.get_outputs_for_camera(model.test_cameras[:1])) == {"rgb", "depth", "accumulation"}
    model.config.maps = True


def test_checkpoints_hold_what_is_trained_and_nothing_of_the_scene(model):
    names = set(model.state_dict())
    assert {name.split(".")[0] for name in names} == {"core", "device_indicator_param"}
    assert any("curvature_scale" in name for name in names)
    assert set(model.get_param_groups()) == {"backbone", "trunk", "gaussian_head", "uncertainty_head"}
    assert model.get_training_callbacks(None) == []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_metrics_of_an_image_have_constant_keys(model):
    camera = model.test_cameras[:1]
    outputs = model.get_outputs_for_camera(camera)
    figures, images = model.get_image_metrics_and_images(outputs, {"image": outputs["rgb"] * 0.9})
    assert set(figures) == {"psnr", "ssim"}
    assert figures["ssim"] > 0.8
    assert images["img"].shape == (35, 90, 3)


def test_the_two_models_of_one_config_begin_equal_whatever_the_random_state(tmp_path):
    torch.manual_seed(1)
    first = make_pipeline(small_config(ROOM, tmp_path)).model
    torch.manual_seed(2)
    second = make_pipeline(small_config(ROOM, tmp_path)).model
    third = make_pipeline(small_config(ROOM, tmp_path, seed=9)).model
    ours, same, other = (model.state_dict() for model in (first, second, third))
    assert all(torch.equal(value, same[name]) for name, value in ours.items())
    assert not all(torch.equal(value, other[name]) for name, value in ours.items())
