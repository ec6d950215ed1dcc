# SPDX-License-Identifier: Apache-2.0
"""Scenes of a few images through training, evaluation, viewer and export, and a change of scene, in this process."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = [pytest.mark.nerfstudio, pytest.mark.slow]

from nerfstudio.configs.base_config import ViewerConfig  # noqa: E402
from nerfstudio.utils.eval_utils import eval_setup  # noqa: E402
from nerfstudio.viewer.viewer import Viewer  # noqa: E402

from ns_diff3r import Gaussians, render  # noqa: E402
from ns_diff3r.cli.main import main  # noqa: E402
from ns_diff3r.nerfstudio_cameras import to_cameras  # noqa: E402
from ns_diff3r.training.stages import StageConfig  # noqa: E402
from tests.nerfstudio.conftest import LOOKING_IN, free_port, make_pipeline, scene_of, small_config  # noqa: E402
from tests.nerfstudio.viser_client import ViserClient  # noqa: E402


@pytest.mark.filterwarnings("always::ns_diff3r.data.SceneWarning")
@pytest.mark.parametrize(("count", "held_out"), [(2, 0), (3, 1), (5, 1), (9, 1)])
def test_few_images(count, held_out, tmp_path, capsys, with_programs):
    from nerfstudio.scripts.eval import ComputePSNR
    from nerfstudio.scripts.exporter import ExportGaussianSplat

    scene = scene_of(count, tmp_path / "scene")
    config = small_config(scene, tmp_path / "runs", stages=StageConfig(pretrain_steps=1))
    config.max_num_iterations, config.steps_per_eval_image, config.steps_per_eval_batch = 3, 1, 1
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    trainer.train()
    said = "no image is held out" in capsys.readouterr().out
    assert said == (held_out == 0)

    stored = trainer.base_dir / "config.yml"
    ComputePSNR(load_config=stored, output_path=tmp_path / "figures.json").main()
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert {row["held_out"] for row in results["images"]} == {bool(held_out)}
    assert len(results["images"]) >= 1
    assert ("no image is held out" in capsys.readouterr().out) == (held_out == 0)

    ExportGaussianSplat(load_config=stored, output_dir=tmp_path).main()
    exported = Gaussians.load_ply(tmp_path / "splat.ply")
    ours = tmp_path / "ours.ply"
    assert main(["export", "--run", str(trainer.base_dir), "--output", str(ours), "--threads", "1"]) == 0
    assert Gaussians.load_ply(ours).num_gaussians > 1000

    config, pipeline, _, step = eval_setup(stored)
    assert len(pipeline.datamanager.eval_dataset) == held_out
    camera = pipeline.datamanager.train_dataset.cameras[:1]
    shown_in_viewer = pipeline.model.get_outputs_for_camera(camera)["rgb"]
    drawn = render(exported, to_cameras(camera)).rgb[0].clamp(0, 1)
    torch.testing.assert_close(drawn, shown_in_viewer, atol=1e-5, rtol=0)
    with shown(pipeline, tmp_path, step) as client:
        client.look(*LOOKING_IN)
        assert client.picture().std() > 5
        assert len(frusta(client)) == count - held_out


@contextmanager
def shown(pipeline: Any, folder: Path, step: int = 0) -> Iterator[ViserClient]:
    """A client of nerfstudio's viewer, which runs in this process."""
    port = free_port()
    data = pipeline.datamanager
    viewer = Viewer(ViewerConfig(websocket_port=port), folder / "log.txt", data.get_datapath(), pipeline)
    try:
        viewer.init_scene(train_dataset=data.train_dataset, train_state="completed", eval_dataset=data.eval_dataset)
        viewer.update_scene(step=step)
        with ViserClient(port) as client:
            yield client
    finally:
        viewer.viser_server.stop()


def frusta(client: ViserClient) -> set[str]:
    return {message["name"] for message in client.messages if message["type"] == "CameraFrustumMessage"}


def test_another_scene_in_the_viewer(tmp_path):
    for name, count in (("a", 6), ("b", 4)):
        scene_of(count, tmp_path / name)
    pipeline = make_pipeline(small_config(tmp_path, tmp_path))
    pipeline.eval()
    pipeline.show_scene(0)
    with shown(pipeline, tmp_path) as client:
        client.look(*LOOKING_IN)
        first = client.picture()
        assert len(frusta(client)) == 5
        client.set("Scene", "b")
        assert "Gaussians, predicted in" in client.text("Gaussians, predicted in")
        client.wait(lambda m: m["type"] == "RemoveSceneNodeMessage", whole=True)
        assert client.next_different_picture(first).std() > 5
    assert pipeline.datamanager.active == 1
    assert pipeline.context_frames == (0, 2, 3)
