# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's real commands on the bundled scene, end to end. All of them share one short run of ns-train."""

import json
import signal
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nerfstudio")
pytestmark = [pytest.mark.nerfstudio, pytest.mark.slow]

from ns_diff3r import Gaussians, render  # noqa: E402
from ns_diff3r.data import load_scene  # noqa: E402
from ns_diff3r.training.checkpoint import checkpoints, load_checkpoint  # noqa: E402
from tests.nerfstudio.conftest import LOOKING_IN, ROOM, SMALL, free_port, running  # noqa: E402
from tests.nerfstudio.viser_client import ViserClient  # noqa: E402


def run_folder(config: Path) -> Path:
    return config.parent


def picture_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(float) / 255


def test_ns_train_writes_what_the_others_need(trained_run):
    folder = run_folder(trained_run)
    assert [path.name for path in checkpoints(folder / "nerfstudio_models")] == ["step-000000007.ckpt"]
    assert list(folder.glob("events.out.tfevents.*"))
    assert json.loads((folder / "dataparser_transforms.json").read_text())["scale"] > 0


def test_tensorboard_has_scalars_of_both_passes_and_histograms_of_lambda(trained_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_folder(trained_run)))
    events.Reload()
    scalars = events.Tags()["scalars"]
    for name in ("Train Loss", "Train Metrics Dict/psnr_before", "Train Metrics Dict/psnr_after"):
        assert name in scalars
    for name in ("stationarity", "seconds_tto", "outer_before", "outer_after"):
        assert f"Train Metrics Dict/{name}" in scalars
    for name in ("pcg_iterations", "pcg_residual", "seconds_solve"):
        assert f"Train Backward/{name}" in scalars
    assert "Eval Images Metrics/psnr_gain" in scalars
    assert "learning_rate/uncertainty_head" in scalars
    assert any("photograph_before_after" in tag for tag in events.Tags()["images"])
    (histogram, *_) = events.Histograms("log10 lambda/means")
    assert histogram.histogram_value.num > 1000
    losses = [event.value for event in events.Scalars("Train Loss")]
    assert len(losses) == 8
    assert np.isfinite(losses).all()


def test_ns_eval_writes_figures_before_and_after(trained_run, command, tmp_path):
    shown = command(
        "ns-eval",
        "--load-config",
        trained_run,
        "--output-path",
        tmp_path / "figures.json",
        "--render-output-path",
        tmp_path,
    ).stdout
    content = json.loads((tmp_path / "figures.json").read_text())
    results = content["results"]
    assert content["method_name"] == "diff3r-tiny"
    assert [row["image"] for row in results["images"]] == [1, 9]
    assert all(row["held_out"] for row in results["images"])
    for name in ("psnr_before", "psnr_after", "psnr_gain", "ssim_after", "tto_seconds", "num_gaussians"):
        assert results[name] == pytest.approx(sum(row[name] for row in results["images"]) / 2)
    assert results["psnr_gain"] > 0
    assert results["psnr_before"] > max(results["psnr_constant"], results["psnr_nearest"])
    assert "mean of all images" in shown
    assert list(tmp_path.glob("eval_*.png"))


def test_ns_render_dataset(trained_run, command, tmp_path):
    command("ns-render", "dataset", "--load-config", trained_run, "--output-path", tmp_path, "--image-format", "png")
    folders = {path.name for path in (tmp_path / "test").iterdir()}
    assert folders == {"rgb", "gt-rgb", "depth", "accumulation", "uncertainty", "error"}
    for name in ("01", "09"):
        truth, drawn = (picture_of(tmp_path / "test" / kind / f"{name}.png") for kind in ("gt-rgb", "rgb"))
        assert truth.shape == drawn.shape == (36, 48, 3)
        assert np.square(truth - drawn).mean() < 0.5 * truth.var()


@pytest.mark.parametrize("path", ["spiral", "interpolate", "camera-path"])
def test_ns_render_paths(path, trained_run, with_programs, tmp_path):
    """In this process, for time's sake."""
    from nerfstudio.scripts import render as script

    output = tmp_path / "path.mp4"
    shared = {"load_config": trained_run, "output_path": output, "output_format": "images", "image_format": "png"}
    shared["rendered_output_names"] = ["rgb", "depth"]
    if path == "spiral":
        script.SpiralRender(**shared, seconds=0.1).main()
    elif path == "interpolate":
        script.RenderInterpolated(**shared, interpolation_steps=2, pose_source="train").main()
    else:
        script.RenderCameraPath(**shared, camera_path_filename=camera_path(tmp_path / "path.json")).main()
    images = sorted((tmp_path / "path").glob("*.png"))
    assert len(images) >= 2
    for image in images:
        assert picture_of(image).std() > 0.05
    if path == "camera-path":
        assert picture_of(images[0]).shape == (36, 2 * 48, 3)


def camera_path(file: Path) -> Path:
    """As the viewer writes it: two cameras in nerfstudio's world that look at its origin from the front."""
    pose = [1, 0, 0, 0.0, 0, 0, -1, -1.2, 0, 1, 0, 0.2, 0, 0, 0, 1]
    cameras = [{"camera_to_world": pose, "fov": 50, "aspect": 4 / 3} for _ in range(2)]
    content = {"camera_type": "perspective", "render_height": 36, "render_width": 48, "seconds": 1, "fps": 2}
    file.write_text(json.dumps({**content, "camera_path": cameras}))
    return file


def test_ns_export_gaussian_splat(trained_run, command, programs, tmp_path):
    command("ns-export", "gaussian-splat", "--load-config", trained_run, "--output-dir", tmp_path, **programs)
    gaussians = Gaussians.load_ply(tmp_path / "splat.ply")
    assert gaussians.num_gaussians > 1000
    # The file is in nerfstudio's world: the scene's cameras, brought there, see the scene's pictures.
    transforms = json.loads((run_folder(trained_run) / "dataparser_transforms.json").read_text())
    views = load_scene(ROOM).views([5], max_size=48)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3] = torch.tensor(transforms["transform"], dtype=torch.float64)
    poses = matrix @ torch.linalg.inv(views.cameras.viewmats.double())
    poses[:, :3, 3] *= transforms["scale"]
    cameras = type(views.cameras)(torch.linalg.inv(poses).float(), views.cameras.Ks, 48, 36)
    cameras.viewmats[:, 3] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    error = (render(gaussians, cameras).rgb.clamp(0, 1) - views.images).square().mean()
    assert error < 0.5 * views.images.var()


# --- the viewer ---


def test_ns_viewer_answers_draws_and_refits(trained_run, tmp_path):
    port = free_port()
    with (
        running("ns-viewer", "--load-config", trained_run, "--viewer.websocket-port", port, folder=tmp_path),
        ViserClient(port) as client,
    ):
        page = urllib.request.urlopen(f"http://localhost:{port}/", timeout=30)
        assert page.status == 200
        assert b"<html" in page.read()
        client.look(*LOOKING_IN)
        placed = client.wait(lambda m: m["type"] == "SetCameraPositionMessage", whole=True)  # at a photograph
        assert np.abs(np.asarray(placed["position"]) - LOOKING_IN[0]).max() > 0.1
        after = client.picture()
        assert after.std() > 20  # a picture of something
        client.set("Show", "before (prediction)")
        before = client.next_different_picture(after)
        client.set("Steps", 2)
        client.set("Context views", "2, 6")
        client.set("Re-fit", True)
        assert "Gaussians, predicted in" in client.text("2 steps in")
        client.next_different_picture(before)
        client.set("Context views", "1, 6")
        client.set("Re-fit", True)
        client.text("is no training image")
        client.set("Output type", "uncertainty")
        client.next_different_picture(before)
    assert "Traceback" not in (tmp_path / "ns-viewer.log").read_text()


def test_training_can_be_watched(tmp_path):
    port = free_port()
    options = ("--max-num-iterations", 100_000, "--viewer.websocket-port", port, *SMALL, "--vis", "viewer")
    with (
        running(
            "ns-train", "diff3r-tiny", "--data", ROOM, "--output-dir", tmp_path, *options, folder=tmp_path
        ) as process,
        ViserClient(port) as client,
    ):
        client.look(*LOOKING_IN)
        first = client.picture()
        client.text("Step: ")
        assert client.next_different_picture(first).std() > 20  # of a scene, and not the empty beginning
        assert process.poll() is None
    log = (tmp_path / "ns-train.log").read_text()
    assert "Traceback" not in log


# --- interruption ---


def test_a_run_killed_while_it_saves_is_continued_to_the_same_end(trained_run, command, tmp_path):
    options = (
        *("diff3r-tiny", "--data", ROOM, "--output-dir", tmp_path, "--max-num-iterations", 8, "--steps-per-save", 1),
        *("--steps-per-eval-image", 4, "--steps-per-eval-batch", 4, *SMALL),
    )
    folder = tmp_path / "room" / "diff3r-tiny" / "first"
    kept, saving = folder / "nerfstudio_models", folder / ".nerfstudio_models.saving"
    with running("ns-train", *options, "--timestamp", "first", folder=tmp_path) as process:
        deadline = time.monotonic() + 120
        while not (checkpoints(kept) and (saving.exists() or len(checkpoints(kept)) > 1)):
            assert process.poll() is None, (tmp_path / "ns-train.log").read_text()
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        process.wait()
    command("ns-train", *options, "--timestamp", "second", "--load-dir", kept)
    ended = folder.parent / "second" / "nerfstudio_models" / "step-000000007.ckpt"
    expected = run_folder(trained_run) / "nerfstudio_models" / "step-000000007.ckpt"
    states = [load_checkpoint(path)["pipeline"] for path in (ended, expected)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_bad_input_is_one_message(command, tmp_path):
    done = command("ns-train", "diff3r-tiny", "--data", tmp_path / "absent", "--output-dir", tmp_path, status=1)
    assert "no such file or folder" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
