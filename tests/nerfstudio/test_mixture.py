# SPDX-License-Identifier: Apache-2.0
"""Mixtures with sources that nerfstudio's dataparsers read."""

import json

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

from ns_diff3r.data import CollectionConfig, SamplerConfig, SceneError, SceneWarning, open_collection  # noqa: E402
from ns_diff3r.datamanager import Diff3RDataManagerConfig  # noqa: E402
from ns_diff3r.nerfstudio_sources import open_with_dataparser  # noqa: E402
from tests.nerfstudio.conftest import ROOM  # noqa: E402

THEIRS = {
    "path": str(ROOM),
    "name": "theirs",
    "dataparser": "nerfstudio-data",
    "options": {
        "downscale_factor": 1,
        "orientation_method": "none",
        "center_method": "none",
        "auto_scale_poses": False,
    },
}


def mixture(folder, *sources):
    file = folder / "mixture.json"
    file.write_text(json.dumps({"sources": sources}))
    return file


def test_one_run_mixes_our_readers_and_nerfstudios(tmp_path):
    file = mixture(tmp_path, {"path": str(ROOM), "name": "ours"}, {**THEIRS, "weight": 2, "scale": 0.5})
    config = {"collection": CollectionConfig(max_size=48), "sampler": SamplerConfig(num_targets=1)}
    data = Diff3RDataManagerConfig(data=file, **config).setup(device="cpu")
    assert data.collection.names == ("ours/room", "theirs/room")
    batches = [data.next_train(step)[0][0] for step in range(12)]
    assert {batch.name for batch in batches} == {"ours/room", "theirs/room"}
    ours, theirs = (data.collection.views(scene, range(12)) for scene in (0, 1))
    assert torch.equal(ours.images, theirs.images)
    apart = [(views.cameras.centers[0] - views.cameras.centers[5]).norm() for views in (ours, theirs)]
    torch.testing.assert_close(apart[1], 0.5 * apart[0])
    data.set_active_scene(1)
    assert data.train_dataset.cameras.camera_to_worlds[:, :, 3].abs().max() <= 1.0 + 1e-5
    assert data.eval_dataset[0]["image"].shape == (36, 48, 3)


def test_wildcards_are_several_scenes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        (tmp_path / "scenes" / name / "images").symlink_to(ROOM / "images")
        (tmp_path / "scenes" / name / "transforms.json").symlink_to(ROOM / "transforms.json")
        (tmp_path / "scenes" / name / "sparse_pc.ply").symlink_to(ROOM / "sparse_pc.ply")
    file = mixture(tmp_path, {**THEIRS, "path": "scenes/*"})
    assert open_collection(file, None, open_with_dataparser).names == ("theirs/a", "theirs/b")
    (tmp_path / "scenes" / "b" / "transforms.json").unlink()
    with pytest.warns(SceneWarning, match="scene left out: .*scenes/b: "):
        assert open_collection(file, None, open_with_dataparser).names == ("theirs/a",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataparser": "no-data"}, "dataparser: there is no 'no-data'; there are nerfstudio-data, "),
        ({"dataparser": "diff3r-data", "options": {}}, "dataparser: leave it out"),
        ({"options": {"scale": 1}}, "options: nerfstudio-data has no setting 'scale'; it has scale_factor"),
        ({"path": "/nowhere"}, "/nowhere: no such file or folder"),
        ({"path": "/nowhere/*"}, r"/nowhere/\*: nothing there matches"),
        ({"dataparser": "scannet-data", "options": {}}, "ScanNet cannot read it"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path, changes, message):
    file = mixture(tmp_path, {**THEIRS, **changes})
    with pytest.raises(SceneError, match=rf"mixture\.json: sources\[0\] \(theirs\): .*{message}"):
        open_collection(file, None, open_with_dataparser)
