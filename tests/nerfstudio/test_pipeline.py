# SPDX-License-Identifier: Apache-2.0
"""The pipeline: training steps, the scene on show, evaluation, checkpoints; and the controls in the viewer."""

import json
import math

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

from nerfstudio.viewer.utils import parse_object  # noqa: E402
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement  # noqa: E402

from ns_diff3r.nerfstudio_cameras import to_cameras  # noqa: E402
from ns_diff3r.training.stages import Stage, StageConfig  # noqa: E402
from ns_diff3r.viewer_panel import AFTER, BEFORE, parse_frames  # noqa: E402
from tests.nerfstudio.conftest import ROOM, make_pipeline, scene_of, small_config  # noqa: E402


@pytest.fixture
def pipeline(tmp_path):
    return make_pipeline(small_config(ROOM, tmp_path, stages=StageConfig(pretrain_steps=1)))


def test_a_step_goes_through_the_wrapped_model_in_both_stages(pipeline):
    pipeline.train()
    calls = []
    pipeline._model.register_forward_pre_hook(lambda module, arguments: calls.append(arguments[1]))
    for step, stage in ((0, Stage.PRETRAIN), (2, Stage.BILEVEL)):
        output, losses, scalars = pipeline.get_train_loss_dict(step)
        assert output.stage is stage
        total = sum(losses.values())
        total.backward()
        assert math.isfinite(float(total.detach()))
        assert all(isinstance(value, float) for value in scalars.values())
    assert calls == [0, 2]  # hooks, as DistributedDataParallel's, see the call
    assert "psnr_after" in scalars
    assert output.backward_scalars()["pcg_iterations"] > 0
    groups = pipeline.get_param_groups()
    assert any(p.grad is not None for p in groups["uncertainty_head"])


def test_evaluation_on_the_way_needs_no_gradient_and_restores_the_mode(pipeline):
    pipeline.train()
    _, losses, scalars = pipeline.get_eval_loss_dict(2)
    assert not any(term.requires_grad for term in losses.values())
    assert "psnr_before" in scalars
    first, images = pipeline.get_eval_image_metrics_and_images(2)
    second, _ = pipeline.get_eval_image_metrics_and_images(3)
    assert set(first) == set(second)
    assert first["num_rays"] == 32 * 24
    (picture,) = images.values()
    assert picture.shape == (24, 3 * 32, 3)
    assert pipeline.training
    assert pipeline.model.core.training


def test_evaluation_of_all_images(pipeline, tmp_path, capsys):
    results = pipeline.get_average_eval_image_metrics(output_path=tmp_path / "pictures", get_std=True)
    assert [row["image"] for row in results["images"]] == [1, 9]
    rows = results["images"]
    for name in ("psnr", "ssim"):
        for when in ("before", "after", "gain"):
            assert results[f"{name}_{when}"] == pytest.approx(sum(row[f"{name}_{when}"] for row in rows) / 2)
        assert results[name] == results[f"{name}_after"]
        assert results[f"{name}_gain"] == pytest.approx(results[f"{name}_after"] - results[f"{name}_before"])
    assert results["num_gaussians"] > 2 * 32 * 24
    assert results["tto_seconds"] > 0
    assert results["psnr_after_std"] == pytest.approx(abs(rows[0]["psnr_after"] - rows[1]["psnr_after"]) / math.sqrt(2))
    assert json.loads(json.dumps(results)) == results
    assert "mean of all images" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"eval_room_0001.png", "eval_room_0009.png"}
    assert pipeline.get_average_eval_image_metrics(step=3).keys() <= results.keys()
    assert all(isinstance(value, float) for value in pipeline.get_average_eval_image_metrics(step=3).values())


def test_a_scene_without_held_out_images_is_judged_on_training_images_and_says_so(tmp_path, capsys):
    pipeline = make_pipeline(small_config(scene_of(2, tmp_path / "two"), tmp_path))
    results = pipeline.get_average_eval_image_metrics(get_std=True)
    assert results["num_images"] >= 1
    json.dumps(results, allow_nan=False)  # the nearest view is the image itself, of infinite PSNR
    assert not any(row["held_out"] for row in results["images"])
    assert "no image is held out" in capsys.readouterr().out
    assert "no image is held out" in pipeline.describe()


def test_the_scene_on_show_is_predicted_optimised_and_placed(pipeline):
    shown = pipeline.model.scene
    assert shown.before.num_gaussians == 1
    result = pipeline.refresh_scene()
    scene, similarity = pipeline.model.scene, pipeline.datamanager.placement.similarity
    torch.testing.assert_close(scene.after.means, similarity.apply_points(result.after.means.double()).float())
    assert scene.context.num_views == len(pipeline.context_frames) == 6
    listed = pipeline.datamanager.train_dataset
    place = listed.frames.index(pipeline.context_frames[1])
    expected = to_cameras(listed.cameras[place]).viewmats
    torch.testing.assert_close(scene.context.cameras.viewmats[1:2], expected, atol=1e-5, rtol=0)
    assert not torch.equal(scene.before.means, scene.after.means)
    camera, batch = next(iter(pipeline.datamanager.fixed_indices_eval_dataloader))
    drawn = pipeline.model.get_outputs_for_camera(camera)["rgb"]
    held_out = pipeline.datamanager.collection.views(0, [batch["frame"]])
    direct = pipeline.model.core.draw(result.after, held_out.cameras)[0].clamp(0, 1)
    assert (drawn - direct).abs().mean() < 1e-3  # the same picture in nerfstudio's world as in the data's
    assert (drawn - batch["image"]).abs().mean() < 0.5 * (batch["image"] - batch["image"].mean()).abs().mean()


def test_steps_and_context_of_the_scene_on_show(pipeline):
    calls = []
    pipeline.refresh_scene((0, 4, 6), 2, lambda step, loss: calls.append(step))
    assert calls == [0, 1, 2]
    assert pipeline.context_frames == (0, 4, 6)
    pipeline.refresh_scene(num_steps=0)
    assert pipeline.model.scene.after is pipeline.model.scene.before
    shown = pipeline.model.scene
    with pytest.raises(ValueError, match="no view 99"):
        pipeline.refresh_scene((0, 99))
    assert pipeline.model.scene is shown
    assert pipeline.context_frames == (0, 4, 6)


@pytest.mark.parametrize(("settings", "expected"), [({"evaluation_context": (7, 3)}, (3, 7)), ({}, None)])
def test_context_of_evaluation_is_shown_where_it_is_given(settings, expected, tmp_path):
    config = small_config(ROOM, tmp_path)
    for name, value in settings.items():
        setattr(config.pipeline.datamanager.sampler, name, value)
    pipeline = make_pipeline(config)
    assert pipeline.context_frames == (expected or pipeline.datamanager.covering_frames(6))
    config.pipeline.datamanager.sampler.evaluation_context = None
    config.pipeline.datamanager.sampler.num_evaluation_context = 4
    assert len(make_pipeline(config).context_frames) == 4


# --- checkpoints ---


def test_a_checkpoint_brings_weights_and_the_scene(pipeline, tmp_path):
    other = make_pipeline(small_config(ROOM, tmp_path, seed=7))
    state = other.state_dict()
    pipeline.load_pipeline(state, 5)
    for name, value in pipeline.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert pipeline.model.scene.after.num_gaussians > 1000
    wrapped = {key.replace("_model.", "_model.module."): value + 0 for key, value in state.items()}
    pipeline.load_pipeline(wrapped, 5)  # of a run with several processes


def test_checkpoints_that_do_not_fit_are_refused(pipeline, tmp_path):
    splatfacto = {f"_model.gauss_params.{name}": torch.zeros(5, 3) for name in ("means", "scales")}
    with pytest.raises(ValueError, match=r"another method.*_model\.gauss_params\.means"):
        pipeline.load_state_dict(splatfacto)
    state = pipeline.state_dict()
    lacking = dict(list(state.items())[2:])
    with pytest.raises(ValueError, match="missing"):
        pipeline.load_state_dict(lacking)
    with pytest.raises(ValueError, match=r"unexpected network\.nothing"):
        pipeline.load_state_dict(state | {"_model.core.network.nothing": torch.zeros(1)})
    config = small_config(ROOM, tmp_path)
    config.pipeline.model.backbone.width = 8
    with pytest.raises(ValueError, match="instead of"):
        pipeline.load_state_dict(make_pipeline(config).state_dict())


# --- the panel ---


def test_nerfstudio_finds_the_controls_in_their_order(pipeline):
    found = parse_object(pipeline, ViewerElement, "Custom Elements")
    assert [element.name for _, element in found] == [
        *("Scene", "Context views", "Steps", "Re-fit", "Progress", "Show", "Uncertainty of", "Note")
    ]
    assert {path.rsplit("/", 1)[0] for path, _ in found} == {"Custom Elements/diff3r"}
    assert len(parse_object(pipeline, ViewerControl, "Custom Elements")) == 1


def test_refit_does_what_the_controls_say(pipeline):
    panel = pipeline.diff3r
    panel.element_2_context.value = "6, 2,4"
    panel.element_3_steps.value = 5
    panel.element_4_refit.cb_hook(panel.element_4_refit)
    assert pipeline.context_frames == (2, 4, 6)
    assert panel.element_5_progress.value == 1.0
    assert "5 steps" in panel.element_8_note.text
    assert "Gaussians" in panel.element_8_note.text
    shown = pipeline.model.scene
    panel.element_2_context.value = "1, 2"  # 1 is held out
    panel.element_4_refit.cb_hook(panel.element_4_refit)
    assert "'1' is no training image" in panel.element_8_note.text
    assert pipeline.model.scene is shown


def test_switches_of_the_panel(pipeline):
    panel, model = pipeline.diff3r, pipeline.model
    for value, expected in ((BEFORE, False), (AFTER, True)):
        panel.element_6_show.value = value
        panel.element_6_show.cb_hook(panel.element_6_show)
        assert model.show_after is expected
    panel.element_7_uncertainty.value = "opacities"
    panel.element_7_uncertainty.cb_hook(panel.element_7_uncertainty)
    assert model.uncertainty_group == "opacities"


def test_another_scene_is_fitted_when_it_is_chosen(tmp_path):
    for name in ("a", "b"):
        scene_of(4, tmp_path / name)
    pipeline = make_pipeline(small_config(tmp_path, tmp_path))
    panel = pipeline.diff3r
    assert panel.element_1_scene.options == ["a", "b"]
    assert panel.element_1_scene.visible
    panel.element_1_scene.value = "b"
    panel.element_1_scene.cb_hook(panel.element_1_scene)
    assert pipeline.datamanager.active == 1
    assert pipeline.model.scene.after.num_gaussians > 1000
    assert panel.element_2_context.value == "0, 2, 3"


@pytest.mark.parametrize(
    ("text", "message"), [("2", "at least two"), ("", "at least two"), ("2, x", "'x'"), ("2, 5", "'5'"), ("2 2", "two")]
)
def test_context_views_that_cannot_be(text, message):
    with pytest.raises(ValueError, match=message):
        parse_frames(text, (0, 2, 3))
    assert parse_frames(" 3,0, 3", (0, 2, 3)) == (0, 3)
