# SPDX-License-Identifier: Apache-2.0
"""ns-train, ns-eval and ns-export with the official networks: a few steps at small size, random weights."""

import json

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = [pytest.mark.nerfstudio, pytest.mark.slow]

from ns_diff3r.data import open_collection  # noqa: E402
from ns_diff3r.data.chunk_conversion import scenes_to_chunks  # noqa: E402
from ns_diff3r.training.checkpoint import checkpoints, load_checkpoint  # noqa: E402
from ns_diff3r.training.published_state import MARK  # noqa: E402
from tests.backbones.official_views import depthsplat  # noqa: E402
from tests.nerfstudio.conftest import ROOM, SMALL  # noqa: E402

# Until the package's own entry points are installed anew, this is how nerfstudio finds them.
METHODS = ",".join(
    f"{name}=ns_diff3r.configs.methods:{name.replace('-', '_')}" for name in ("diff3r-depthsplat", "diff3r-da3")
)
NAMES = {"NERFSTUDIO_METHOD_CONFIGS": METHODS}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "depthsplat.pth"
    network = depthsplat().network
    torch.save({f"encoder.{name}": value for name, value in network.state_dict().items()}, path)
    return path


def test_from_a_published_file_and_chunks_through_training_and_evaluation(command, official, tmp_path):
    data = tmp_path / "room"
    scenes_to_chunks(open_collection(ROOM), data)
    options = ("diff3r-depthsplat", "--data", data, "--output-dir", tmp_path, "--timestamp", "run", *SMALL)
    options += ("--pipeline.model.backbone.checkpoint", official, "--max-num-iterations", 2)
    done = command("ns-train", *options, **NAMES)
    assert "SHA-256" in done.stdout
    run = tmp_path / "room" / "diff3r-depthsplat" / "run"
    (ended,) = checkpoints(run / "nerfstudio_models")
    state = load_checkpoint(ended)["pipeline"]
    assert f"_model.core.network.{MARK}" in state
    assert not any("depth_predictor" in name for name in state)

    command("ns-eval", "--load-config", run / "config.yml", "--output-path", tmp_path / "figures.json", **NAMES)
    results = json.loads((tmp_path / "figures.json").read_text())["results"]
    assert results["num_gaussians"] == 2 * 36 * 48


def test_depth_anything_3_from_random_weights_to_a_splat(command, tmp_path):
    options = ("diff3r-da3", "--data", ROOM, "--output-dir", tmp_path, "--timestamp", "run", *SMALL)
    options += ("--pipeline.model.backbone.checkpoint", "None", "--pipeline.model.backbone.size", "small")
    options += ("--pipeline.datamanager.sampler.num-context", 3, "--max-num-iterations", 2)
    done = command("ns-train", *options, **NAMES)
    assert "random weights and no stage trains it" in done.stdout
    run = tmp_path / "room" / "diff3r-da3" / "run"
    (ended,) = checkpoints(run / "nerfstudio_models")
    assert any("gs_head" in name for name in load_checkpoint(ended)["pipeline"])
    command("ns-export", "gaussian-splat", "--load-config", run / "config.yml", "--output-dir", tmp_path, **NAMES)
    assert (tmp_path / "splat.ply").is_file()
