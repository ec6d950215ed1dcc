# SPDX-License-Identifier: Apache-2.0
"""Rows of a protocol: networks with given and predicted poses, and Gaussians from files."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from ns_diff3r import Cameras
from ns_diff3r.backbones.depthsplat import DepthSplatConfig
from ns_diff3r.data.batches import SceneBatch
from ns_diff3r.evaluation.alignment import rotation_angles
from ns_diff3r.evaluation.metrics import ImageMetrics
from ns_diff3r.evaluation.pose_refinement import PoseRefinementConfig, moved
from ns_diff3r.evaluation.protocols.measure import measure
from ns_diff3r.evaluation.protocols.rows import ORIGINAL, NetworkRow
from ns_diff3r.evaluation.protocols.settings import PosedProtocol, UnposedProtocol
from ns_diff3r.evaluation.protocols.splat_rows import SplatRow
from ns_diff3r.solver import BackwardMode
from ns_diff3r.splats.frames import Similarity
from ns_diff3r.splats.rotations import quats_to_rotations
from ns_diff3r.training.inference import reconstruct
from ns_diff3r.training.perceptual import Lpips
from ns_diff3r.training.run import RunSettings
from ns_diff3r.training.step import TrainingModule
from ns_diff3r.training.weights import TrainedNetwork
from tests.training.doubles import ToyBackbone, ToyConfig, batches, make_batch, make_config, make_network

POSED = PosedProtocol(tto_steps=4)
UNPOSED = UnposedProtocol(num_context=3, tto_steps=4, target_poses=PoseRefinementConfig(num_steps=0))
METRICS = ImageMetrics(None, 8)


def elsewhere(turned: bool = True) -> Similarity:
    """Test-time optimisation goes the same way in another world, but for turned ones: Adam works along the axes."""
    random = torch.Generator().manual_seed(1)
    quats = torch.randn(4, generator=random, dtype=torch.float64)
    rotation = quats_to_rotations(quats if turned else torch.eye(4, dtype=torch.float64)[0])
    translation = torch.randn(3, generator=random, dtype=torch.float64)
    return Similarity(torch.tensor(0.6, dtype=torch.float64), rotation, translation)


class PredictingBackbone(ToyBackbone):
    """Predicts Gaussians and cameras in a world of its own."""

    predicts_cameras = True
    turned = True

    def forward(self, context: Any) -> Any:
        prediction, world = super().forward(context), elsewhere(self.turned)
        cameras = world.apply_cameras(context.cameras)
        return replace(prediction, gaussians=world.apply_gaussians(prediction.gaussians), cameras=cameras)


def network(predicting: bool = False, step: int = 5, **settings: Any) -> TrainedNetwork:
    module = TrainingModule(make_network(), make_config(**settings)).eval()
    if predicting:
        backbone = PredictingBackbone(ToyConfig())
        backbone.load_state_dict(module.network.backbone.state_dict())
        module.network.backbone = backbone
    run = RunSettings(Path(), ToyConfig(), training=module.config)
    return TrainedNetwork(run, module, step, Path("weights"), "0" * 64)


@pytest.fixture(scope="module")
def batch() -> SceneBatch:
    made = make_batch(0, size=16, num_context=3)
    return SceneBatch("scene", made.context, made.targets, 0, (0, 2, 4), (1, 3))


def test_a_network_with_poses_is_measured_as_it_reconstructs(batch):
    trained = network()
    trained.module.train()(batches([3]), 0)  # D is that of training, not of the scene
    trained.module.eval()
    found = measure(NetworkRow("a", trained, POSED), batch, POSED, METRICS)
    expected = reconstruct(trained.module, batch.context, 4)
    for images, gaussians in ((found.before, expected.before), (found.after, expected.after)):
        torch.testing.assert_close(images, trained.module.draw(gaussians, batch.targets.cameras).detach().clamp(0, 1))
    assert list(found.figures) == [1, 3]
    figures = found.figures[3]
    assert figures["psnr_after"] == pytest.approx(METRICS(found.after[1], batch.targets.images[1])["psnr"])
    assert figures["gaussians"] == 3 * 16 * 16
    assert figures["tto_status"] == "completed"
    assert figures["alignment_degrees"] is None
    assert "pose_status" not in figures


def test_the_prior_is_learned_once_training_has_reached_its_second_stage(batch):
    second, first, published = network(step=5), network(step=5, pretrain_steps=5), network(step=0)
    assert NetworkRow("a", second, POSED).prior == "learned"
    assert NetworkRow("a", first, POSED).prior == "none"
    assert NetworkRow("a", published, POSED).prior == "none"
    learned, free, held = (NetworkRow("a", second, POSED, prior) for prior in (None, "none", 1e6))
    after = [measure(row, batch, POSED, METRICS).after for row in (learned, free, held)]
    for first_images, second_images in combinations(after, 2):
        assert (first_images - second_images).abs().max() > 1e-4
    assert learned.identity() != free.identity()


def test_the_protocol_decides_on_steps_rates_and_renderer():
    trained = network(inner_steps=3)
    row = NetworkRow("a", trained, PosedProtocol(tto_steps=7, tto_rate_factor=2.0, preset="gsplat-1.5.3"))
    assert (row.tto.num_steps, row.tto.preset) == (7, "gsplat-1.5.3")
    assert row.tto.backward_mode is BackwardMode.NONE
    assert row.tto.learning_rates.means == pytest.approx(2.0 * trained.module.config.tto.learning_rates.means)
    settings = replace(trained.settings, backbone=DepthSplatConfig())
    released = NetworkRow("a", replace(trained, settings=settings, step=0), POSED)
    assert released.tto.preset == ORIGINAL
    assert NetworkRow("a", replace(trained, settings=settings, step=9), POSED).tto.preset == "gsplat-1.4.0"


@pytest.mark.parametrize("alignment", ["cameras", "centers"])
@pytest.mark.parametrize("turned", [True, False])
def test_predicted_poses_give_what_given_ones_give(batch, alignment, turned):
    """Cameras and Gaussians in another world: the similarity takes the target cameras there, and figures agree."""
    protocol = replace(UNPOSED, alignment=alignment)
    given = measure(NetworkRow("a", network(), POSED, "none"), batch, POSED, METRICS)
    trained = network(predicting=True)
    trained.module.network.backbone.turned = turned
    found = measure(NetworkRow("a", trained, protocol, "none"), batch, protocol, METRICS)
    assert (found.before - given.before).abs().max() < 2e-3
    for frame, figures in found.figures.items():
        assert figures["psnr_before"] == pytest.approx(given.figures[frame]["psnr_before"], abs=1e-2)
        assert turned or figures["psnr_after"] == pytest.approx(given.figures[frame]["psnr_after"], abs=0.02)
        assert figures["alignment_degrees"] < 1e-3
        assert figures["pose_loss_after"] == figures["pose_loss_before"]


def test_target_poses_are_optimised_on_the_prediction_and_serve_before_and_after(batch):
    protocol = replace(UNPOSED, target_poses=PoseRefinementConfig(num_steps=20))
    still = measure(NetworkRow("a", network(predicting=True), UNPOSED), batch, UNPOSED, METRICS)
    row = NetworkRow("a", network(predicting=True), protocol)
    found = measure(row, batch, protocol, METRICS)
    for frame, figures in found.figures.items():
        assert figures["pose_loss_after"] < figures["pose_loss_before"]
        assert figures["pose_loss_before"] == pytest.approx(still.figures[frame]["pose_loss_before"])
        assert figures["psnr_before"] > still.figures[frame]["psnr_before"]
    # What is drawn before has the MSE that the poses were found with: the prediction, and no optimised Gaussians.
    errors = (found.before - batch.targets.images).square().flatten(1).mean(1)
    after = [figures["pose_loss_after"] for figures in found.figures.values()]
    torch.testing.assert_close(errors.double(), torch.tensor(after, dtype=torch.float64), rtol=1e-3, atol=1e-7)


def test_lpips_is_measured_and_part_of_the_loss_of_target_poses(batch):
    """Where its package is installed; random weights."""
    pytest.importorskip("lpips")
    torch.manual_seed(0)
    metrics = ImageMetrics(Lpips())
    row = NetworkRow("a", network(predicting=True), UNPOSED)
    found = measure(row, batch, UNPOSED, metrics)
    for view, figures in enumerate(found.figures.values()):
        drawn, truth = found.before[view], batch.targets.images[view]
        assert figures["lpips_before"] == pytest.approx(metrics(drawn, truth)["lpips"])
        assert figures["lpips_after"] != figures["lpips_before"]
        error = float((drawn - truth).square().mean())
        assert figures["pose_loss_before"] == pytest.approx(error + 0.05 * figures["lpips_before"], rel=1e-3)


def test_focal_lengths_of_targets_may_follow_the_prediction(batch):
    trained = network(predicting=True)
    backbone = trained.module.network.backbone
    forward = backbone.forward

    def longer(context: Any) -> Any:
        prediction: Any = forward(context)
        Ks = prediction.cameras.Ks.clone()
        Ks[:, 0, 0] *= 1.5
        Ks[:, 1, 1] *= 1.25
        return replace(prediction, cameras=Cameras(prediction.cameras.viewmats, Ks, 16, 16))

    backbone.forward = longer
    given, predicted = (
        NetworkRow("a", trained, replace(UNPOSED, target_intrinsics=kind)).predict(batch).targets.Ks
        for kind in ("given", "predicted")
    )
    torch.testing.assert_close(given, batch.targets.cameras.Ks)
    torch.testing.assert_close(predicted[:, [0, 1], [0, 1]], given[:, [0, 1], [0, 1]] * torch.tensor([1.5, 1.25]))
    torch.testing.assert_close(predicted[:, :2, 2], given[:, :2, 2])


def test_a_network_that_needs_poses_is_refused_without_them():
    with pytest.raises(ValueError, match="row 'a': ToyConfig takes given poses, and this protocol gives none"):
        NetworkRow("a", network(), UNPOSED)


def test_a_prediction_that_cannot_be_used_is_an_error(batch):
    trained = network()
    forward = trained.module.network.forward

    def broken(context: Any, with_prior: bool = True) -> Any:
        output = forward(context, with_prior)
        return replace(output, gaussians=output.gaussians.map(lambda leaf: leaf * float("nan")))

    trained.module.network.forward = broken  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match="the prediction cannot be used"):
        NetworkRow("a", trained, POSED).predict(batch)


# --- Gaussians from files ---


@pytest.fixture
def splats(batch, tmp_path) -> Path:
    """What the toy network predicts, in the scene's world."""
    prediction = network().module.network(batch.context, False).gaussians.detach()
    prediction.save_ply(tmp_path / "scene.ply")
    return tmp_path


def cameras_file(cameras: Cameras, frames: tuple[int, ...], **entry: Any) -> dict[str, Any]:
    return {str(f): {"world_to_camera": v.tolist(), **entry} for f, v in zip(frames, cameras.viewmats, strict=True)}


def test_gaussians_from_files_are_measured_like_a_network_without_prior(batch, splats):
    row = SplatRow("b", splats, POSED, ["scene", "other"])
    found = measure(row, batch, POSED, METRICS)
    expected = measure(NetworkRow("a", network(), POSED, "none"), batch, POSED, METRICS)
    torch.testing.assert_close(found.before, expected.before, rtol=0, atol=1e-5)
    for frame, figures in found.figures.items():
        assert figures["psnr_after"] == pytest.approx(expected.figures[frame]["psnr_after"], abs=0.02)
        assert figures["alignment_degrees"] is None


@pytest.mark.parametrize("named", ["context", "targets", "both"])
def test_files_in_a_world_of_their_own_name_cameras(batch, splats, named):
    """Those of the context, of the targets, or of both; the others follow by the similarity."""
    world = elsewhere(turned=False)
    given = measure(SplatRow("b", splats, UNPOSED, ["scene"]), batch, UNPOSED, METRICS)
    world.apply_gaussians(network().module.network(batch.context, False).gaussians.detach()).save_ply(
        splats / "scene.ply"
    )
    content: dict[str, Any] = {}
    if named != "targets":
        content |= cameras_file(world.apply_cameras(batch.context.cameras), batch.context_indices)
    if named != "context":
        content |= cameras_file(world.apply_cameras(batch.targets.cameras), batch.target_indices)
    (splats / "scene.json").write_text(json.dumps(content))
    row = SplatRow("b", splats, UNPOSED, ["scene"])
    prediction = row.predict(batch)
    expected = world.apply_cameras(batch.targets.cameras)
    torch.testing.assert_close(prediction.targets.viewmats, expected.viewmats, rtol=0, atol=1e-4)
    expected = world.apply_cameras(batch.context.cameras)
    torch.testing.assert_close(prediction.context.cameras.viewmats, expected.viewmats, rtol=0, atol=1e-4)
    found = measure(row, batch, UNPOSED, METRICS)
    for frame, figures in found.figures.items():
        for name in ("psnr_before", "psnr_after"):
            assert figures[name] == pytest.approx(given.figures[frame][name], abs=0.05)


def test_named_cameras_are_taken_as_they_are(batch, splats):
    """A target pose that its own program has refined, and intrinsics that it has predicted."""
    refined = moved(batch.targets.cameras, torch.full((2, 6), 0.01, dtype=torch.float64))
    content = cameras_file(batch.context.cameras, batch.context_indices)
    content |= cameras_file(refined[0], (1,), intrinsics=[0.9, 0.8, 0.5, 0.55])
    (splats / "scene.json").write_text(json.dumps(content))
    prediction = SplatRow("b", splats, POSED, ["scene"]).predict(batch)
    torch.testing.assert_close(prediction.targets.viewmats[0], refined.viewmats[0])
    expected = torch.tensor([[14.4, 0, 8.0], [0, 12.8, 8.8], [0, 0, 1]])
    torch.testing.assert_close(prediction.targets.Ks[0], expected)
    torch.testing.assert_close(prediction.targets.Ks[1], batch.targets.cameras.Ks[1])
    relative = prediction.targets.viewmats[1:, :3, :3] @ batch.targets.cameras.viewmats[1:, :3, :3].transpose(1, 2)
    assert float(rotation_angles(relative)[0]) < 0.01


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not readable"),
        ("[]", "must be an object"),
        ('{"77": {}}', "names none of the frames 0, 2, 4, 1, 3"),
        ('{"1": {"pose": 1}}', "frame 1: KeyError: 'world_to_camera'"),
        ('{"1": {"world_to_camera": [[1, 0], [0, 1]]}}', "frame 1: ValueError"),
        ('{"1": {"world_to_camera": [[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0]]}}', "frame 1: .*must be a rotation"),
    ],
)
def test_bad_cameras_are_named(batch, splats, content, message):
    (splats / "scene.json").write_text(content)
    with pytest.raises(ValueError, match=rf"scene\.json: {message}"):
        SplatRow("b", splats, POSED, ["scene"]).predict(batch)


def test_missing_files_are_named(batch, splats):
    with pytest.raises(ValueError, match=r"row 'b': .*nowhere: no such folder"):
        SplatRow("b", splats / "nowhere", POSED, ["scene"])
    with pytest.raises(ValueError, match=r"holds none of the 2 scenes; expected are files like x\.ply"):
        SplatRow("b", splats, POSED, ["x", "y"])
    (splats / "scene.ply").rename(splats / "other.ply")
    with pytest.raises(FileNotFoundError, match=r"scene\.ply: no such file"):
        SplatRow("b", splats, POSED, ["scene", "other"]).predict(batch)
