# SPDX-License-Identifier: Apache-2.0
"""Figures of held-out views before and after optimisation, baselines, tables and pictures."""

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ns_diff3r import Cameras, Views
from ns_diff3r.data import BatchSampler, CollectionConfig, SamplerConfig, SplitConfig, open_collection
from ns_diff3r.evaluation.evaluate import Evaluation, constant_image, evaluate, nearest_context_images
from ns_diff3r.evaluation.metrics import ImageMetrics, psnr
from ns_diff3r.evaluation.reports import save_pictures, table_rows
from ns_diff3r.training.inference import evaluation_layer, reconstruct
from ns_diff3r.training.step import TrainingModule
from tests.training.doubles import batches, make_batch, make_config, make_network

ROOM = Path(__file__).resolve().parents[2] / "examples" / "room"


def make_module(**changes: Any) -> TrainingModule:
    return TrainingModule(make_network(), make_config(inner_steps=3, **changes)).train()


def make_sampler(max_size: int = 24, **split: Any) -> BatchSampler:
    config = CollectionConfig(max_size=max_size, split=SplitConfig(**split))
    return BatchSampler(SamplerConfig(num_targets=2), open_collection(ROOM, config))


# --- reconstruct ---


def test_reconstruct_predicts_and_fits_and_changes_nothing():
    module, batch = make_module(), make_batch(0)
    module(batches([0]), 0)
    module.network.backbone.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = reconstruct(module, batch.context)
    assert module.training
    assert not module.network.backbone.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert found.solution is not None
    assert found.solution.num_steps == 3
    assert found.solution.curvature_scale is not None
    own = module.tto.curvature_scale.scale()
    assert list(found.solution.curvature_scale.values()) == own  # D of training, not of the scene
    assert not found.after.requires_grad
    assert not torch.equal(found.after.means, found.before.means)
    assert found.predict_seconds > 0
    assert found.tto_seconds > 0


def test_the_number_of_steps_can_be_chosen():
    module, batch = make_module(tto_steps_eval=5), make_batch(0)
    assert reconstruct(module, batch.context).solution.num_steps == 5  # pyright: ignore[reportOptionalMemberAccess]
    assert reconstruct(module, batch.context, 2).solution.num_steps == 2  # pyright: ignore[reportOptionalMemberAccess]
    none = reconstruct(module, batch.context, 0)
    assert none.after is none.before
    assert none.solution is None
    layer = evaluation_layer(module)
    assert layer.curvature_scale is module.tto.curvature_scale
    assert module.tto.curvature_scale.training


def test_a_prediction_that_cannot_be_used_is_an_error():
    module = make_module()
    with torch.no_grad():
        module.network.backbone.head.bias.fill_(math.nan)  # pyright: ignore
    with pytest.raises(ValueError, match=r"the prediction cannot be used: .*non-finite"):
        reconstruct(module, make_batch(0).context)


# --- baselines ---


def test_no_constant_colour_is_better_than_the_mean():
    truth = torch.rand(9, 8, 3, generator=torch.Generator().manual_seed(0))
    best = psnr(constant_image(truth), truth)
    for channel in range(3):
        for change in (-0.02, 0.02):
            other = constant_image(truth).clone()
            other[..., channel] += change
            assert psnr(other, truth) < best


def cameras_at(places: list[list[float]], yaws: list[float]) -> Cameras:
    viewmats = torch.eye(4).repeat(len(places), 1, 1)
    for i, (place, yaw) in enumerate(zip(places, yaws, strict=True)):
        cos, sin = math.cos(yaw), math.sin(yaw)
        turn = torch.tensor([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
        viewmats[i, :3, :3] = turn
        viewmats[i, :3, 3] = -turn @ torch.tensor(place, dtype=torch.float32)
    intrinsics = torch.tensor([[10.0, 0, 4], [0, 10.0, 4], [0, 0, 1]]).repeat(len(places), 1, 1)
    return Cameras(viewmats, intrinsics, 8, 8)


def test_the_nearest_context_photograph_is_copied():
    """By position; where two are equally near, by direction of view."""
    context = cameras_at([[0, 0, 0], [5, 0, 0], [5, 0, 0]], [0, 0, 1.5])
    targets = cameras_at([[0.5, 0, 0], [4, 0, 0], [4, 0, 0]], [0.1, 0.2, 1.2])
    shades = torch.tensor([0.1, 0.2, 0.3])[:, None, None, None].expand(3, 8, 8, 3)
    copies = nearest_context_images(Views(shades, context), Views(torch.zeros(3, 8, 8, 3), targets))
    assert copies is not None
    torch.testing.assert_close(copies[:, 0, 0, 0], torch.tensor([0.1, 0.2, 0.3]))
    other = Cameras(context.viewmats, context.Ks, 9, 8)
    assert nearest_context_images(Views(torch.zeros(3, 8, 9, 3), other), Views(shades, targets)) is None


# --- evaluate ---


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluate(make_module(), make_sampler(), ImageMetrics(None))


def test_every_held_out_image_is_judged_before_and_after(evaluation):
    sampler = make_sampler()
    assert [row["image"] for row in evaluation.rows] == list(sampler.collection.evaluation_indices(0)) == [1, 9]
    for row in evaluation.rows:
        assert row["scene"] == "room"
        assert row["held_out"] is True
        assert tuple(row)[3:] == evaluation.names
        assert row["psnr_gain"] == pytest.approx(row["psnr_after"] - row["psnr_before"])
        assert row["num_gaussians"] == 2 * 24 * 18
        assert row["tto_seconds"] > 0
        assert 5 < row["psnr_constant"] < 30
        assert 5 < row["psnr_nearest"] < 30


def test_figures_are_those_of_the_reconstruction(evaluation):
    module, sampler = make_module(), make_sampler()
    item = sampler.evaluation_items(0)[0]
    batch = sampler.load(item)
    found = reconstruct(module, batch.context)
    metrics = ImageMetrics(None)
    with torch.no_grad():
        image = module.draw(found.after, batch.targets.cameras)[0]
    expected = metrics(image, batch.targets.images[0])
    row = next(row for row in evaluation.rows if row["image"] == item.targets[0])
    assert {name: row[f"{name}_after"] for name in metrics.names} == pytest.approx(expected)
    photograph, _, after = evaluation.pictures[0]
    assert torch.equal(photograph, batch.targets.images[0])
    torch.testing.assert_close(after, image.clamp(0, 1))


def test_averages(evaluation):
    for name in evaluation.names:
        assert evaluation.means[name] == pytest.approx(np.mean([row[name] for row in evaluation.rows]))
    assert evaluation.scene_means() == {"room": evaluation.means}
    stored = json.loads(json.dumps(evaluation.to_json()))
    assert stored["means"] == evaluation.means
    assert stored["images"] == evaluation.rows


def test_a_scene_without_held_out_images_is_judged_on_training_images_and_says_so():
    result = evaluate(make_module(), make_sampler(all=True), ImageMetrics(None), num_steps=1)
    assert result.rows
    assert not any(row["held_out"] for row in result.rows)
    assert result.notes == ["room: no image is held out; its figures are on training images"]
    assert "(training)" in table_rows(result)[0]["image"]


def test_a_reconstruction_that_fails_is_left_out_and_named(caplog):
    module, sampler = make_module(), make_sampler()
    network = module.network
    forward, calls = network.forward, []

    def fails_first(context: Views, with_prior: bool = True) -> Any:
        calls.append(1)
        output = forward(context, with_prior)
        if len(calls) > 1:
            return output
        return replace(output, gaussians=output.gaussians.map(lambda leaf: leaf * math.nan))

    network.forward = fails_first  # pyright: ignore[reportAttributeAccessIssue]
    with caplog.at_level(logging.WARNING, "ns_diff3r"):
        result = evaluate(module, sampler, ImageMetrics(None), num_steps=1)
    assert [row["image"] for row in result.rows] == [9]
    assert "room, images [1]: not evaluated" in result.notes[0]
    assert "not evaluated" in caplog.text

    network.forward = lambda *_: (_ for _ in ()).throw(ValueError("no depth range"))  # pyright: ignore
    with pytest.raises(ValueError, match="no scene could be evaluated; the last: no depth range"):
        evaluate(module, sampler, ImageMetrics(None), num_steps=1)


def test_progress_is_told():
    lines: list[str] = []
    evaluate(make_module(), make_sampler(), ImageMetrics(None), num_steps=0, progress=lines.append)
    assert lines == ["room: images 1", "room: images 9"]


# --- reports ---


def test_the_table_has_a_row_per_image_and_the_mean(evaluation):
    rows = table_rows(evaluation)
    assert [row["image"] for row in rows] == ["room 1", "room 9", "mean of all images"]
    assert rows[-1]["PSNR after"] == evaluation.means["psnr_after"]
    assert rows[0]["PSNR nearest"] == evaluation.rows[0]["psnr_nearest"]
    assert rows[0]["Gaussians"] == 864
    many = Evaluation(evaluation.rows * 20, evaluation.names)
    assert [row["image"] for row in table_rows(many)] == ["room", "mean of all images"]
    assert table_rows(Evaluation([], evaluation.names)) == []


def test_the_picture_shows_the_images(tmp_path):
    red, grey = torch.tensor([1.0, 0.0, 0.0]).expand(4, 6, 3), torch.full((4, 6, 3), 0.5)
    small = torch.zeros(3, 3, 3)
    save_pictures(tmp_path / "picture.png", [[red, grey], [small, small]], min_height=8)
    pixels = np.asarray(Image.open(tmp_path / "picture.png"))
    assert pixels.shape == (8 + 2 + 9, 12 + 2 + 12, 3)
    assert (pixels[:8, :12] == [255, 0, 0]).all()
    assert (pixels[:8, 14:] == 128).all()
    assert (pixels[8:10] == 255).all()
    assert (pixels[10:, :9] == 0).all()
    assert (pixels[10:, 21:] == 255).all()
