# SPDX-License-Identifier: Apache-2.0
"""The nerfstudio run that `ns-diff3r reconstruct` leaves: nerfstudio opens it and finds the same splat."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from ns_diff3r import Gaussians
from ns_diff3r.cli.main import main
from tests.nerfstudio.conftest import ROOM

pytestmark = [pytest.mark.nerfstudio, pytest.mark.slow]
eval_utils = pytest.importorskip("nerfstudio.utils.eval_utils", reason="needs the extra [nerfstudio]")


def test_nerfstudio_opens_what_reconstruct_wrote(trained_run, tmp_path):
    data = tmp_path / "other_room"
    shutil.copytree(ROOM, data)
    output = tmp_path / "output"
    arguments = ["--data", data, "--output", output, "--weights", trained_run.parent, "--context", 3, 6, 9]
    assert main(["reconstruct", *map(str, arguments), "--steps", "4", "--hold-out", "--threads", "1"]) == 0
    (config,) = (output / "nerfstudio" / "other_room" / "diff3r").glob("*/config.yml")
    settings = json.loads((config.parent / "settings.json").read_text())
    assert settings["sampler"]["evaluation_context"] == [3, 6, 9]

    _, pipeline, checkpoint, step = eval_utils.eval_setup(Path(config), test_mode="test")
    assert step == json.loads((output / "results.json").read_text())["weights"]["step"]
    assert checkpoint.is_file()
    assert pipeline.context_frames == (3, 6, 9)
    splat = Gaussians.load_ply(output / "scene.ply")
    shown = pipeline.datamanager.placement.similarity.inverse().apply_gaussians(
        pipeline.model.scene.after.to(dtype=torch.float64)
    )
    for name in ("means", "scales", "opacities", "sh0"):
        torch.testing.assert_close(getattr(shown, name).float(), getattr(splat, name), rtol=1e-3, atol=1e-4)
    means = pipeline.get_average_eval_image_metrics()
    figures = json.loads((output / "results.json").read_text())["figures"]
    expected = sum(row["psnr_after"] for row in figures) / len(figures)
    assert abs(means["psnr"] - expected) < 1e-2
