# SPDX-License-Identifier: Apache-2.0
"""The datamanager: batches, the active scene, and what nerfstudio's commands ask of it."""

import pytest
import torch

pytest.importorskip("nerfstudio")
pytestmark = pytest.mark.nerfstudio

from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManager  # noqa: E402
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig  # noqa: E402
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig  # noqa: E402

from ns_diff3r.data import CollectionConfig, GeneratedConfig, SamplerConfig, SceneError  # noqa: E402
from ns_diff3r.data.images import read_image  # noqa: E402
from ns_diff3r.datamanager import Diff3RDataManager, Diff3RDataManagerConfig  # noqa: E402
from ns_diff3r.dataparser import Diff3RDataParserConfig  # noqa: E402
from ns_diff3r.nerfstudio_cameras import to_cameras  # noqa: E402
from tests.nerfstudio.conftest import ROOM, scene_of  # noqa: E402


def manager(data=ROOM, test_mode="val", **changes) -> Diff3RDataManager:
    settings = {"data": data, "collection": CollectionConfig(max_size=48), **changes}
    return Diff3RDataManagerConfig(**settings).setup(device="cpu", test_mode=test_mode)


def equal(first, second) -> bool:
    return all(
        torch.equal(a.context.images, b.context.images) and torch.equal(a.targets.images, b.targets.images)
        for a, b in zip(first, second, strict=True)
    )


def test_batches_are_a_function_of_seed_and_step():
    sampler = SamplerConfig(num_context=3, num_targets=2, seed=5)
    first, second = manager(sampler=sampler), manager(sampler=sampler)
    for step in (4, 0, 4):
        ours, _ = first.next_train(step)
        assert equal(ours, second.batch_sampler.batch(step))
        assert ours[0].context.num_views == 3
        assert ours[0].context.near is not None
    assert not equal(first.next_train(0)[0], first.next_train(1)[0])
    other = manager(sampler=SamplerConfig(num_context=3, num_targets=2, seed=6))
    assert any(not equal(first.next_train(s)[0], other.next_train(s)[0]) for s in range(3))


def test_generated_scenes_need_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generated = GeneratedConfig(num_scenes=5, num_evaluation_scenes=1, num_views=4, num_textures=16)
    data = manager("generated", collection=CollectionConfig(max_size=24, generated=generated))
    assert data.active == 5  # the scene that is held out
    assert equal(data.next_train(2)[0], data.batch_sampler.batch(2))
    assert data.eval_dataset[0]["image"].shape[2] == 3


def test_held_out_images_enter_no_training_batch():
    data = manager()
    held_out = set(data.eval_dataset.frames)
    assert held_out
    for step in range(30):
        (batch,), _ = data.next_train(step)
        assert not held_out & {*batch.context_indices, *batch.target_indices}


def test_datasets_show_what_the_network_sees_in_nerfstudios_world():
    data = manager()
    assert (len(data.train_dataset), len(data.eval_dataset)) == (10, 2)
    item = data.eval_dataset[0]
    views = data.collection.views(0, [data.eval_dataset.frames[0]])
    assert torch.equal(item["image"], views.images[0])
    assert item["image"].shape == (36, 48, 3)
    cameras = to_cameras(data.eval_dataset.cameras[0])
    assert (cameras.width, cameras.height) == (48, 36)
    expected = data.placement.similarity.apply_cameras(views.cameras)
    torch.testing.assert_close(cameras.viewmats, expected.viewmats, atol=1e-5, rtol=0)
    assert data.train_dataset.cameras.camera_to_worlds[:, :, 3].abs().max() <= 1.0 + 1e-5
    assert data.eval_dataset.image_filenames[0].name == "01.jpg"


def test_loaders_read_nothing_before_they_are_used(monkeypatch):
    """nerfstudio's viewer looks at every property of the datamanager."""

    def refuse(*args, **kwargs):
        raise AssertionError("an image is read")

    monkeypatch.setattr("ns_diff3r.data.frames.read_image", refuse)
    data = manager()
    loader = data.fixed_indices_eval_dataloader
    assert len(loader) == 2
    assert data.get_train_rays_per_batch() == 48 * 36 * data.config.sampler.num_targets
    assert len(data.train_dataset.cameras) == 10
    with pytest.raises(AssertionError, match="an image is read"):
        next(iter(loader))
    monkeypatch.setattr("ns_diff3r.data.frames.read_image", read_image)
    cameras, batches = zip(*loader, strict=True)
    assert [batch["frame"] for batch in batches] == [1, 9]
    assert cameras[0].shape == (1,)


def test_scenes_of_a_folder_and_the_active_one(tmp_path):
    for name, count in (("a", 5), ("b", 4), ("c", 3)):
        scene_of(count, tmp_path / name)
    data = manager(tmp_path, collection=CollectionConfig(max_size=32, eval_scenes=("b",)))
    assert data.collection.names == ("a", "b", "c")
    assert data.active == 1  # the scene that is held out is the one to look at
    assert {data.next_train(step)[0][0].name for step in range(8)} == {"a", "c"}
    assert {data.next_eval(step)[0][0].name for step in range(8)} == {"b"}
    data.set_active_scene(0)
    assert len(data.train_dataset) + len(data.eval_dataset) == 5
    assert data.train_dataparser_outputs.image_filenames[0].is_relative_to(tmp_path / "a")


@pytest.mark.parametrize(("count", "held_out"), [(2, 0), (3, 1), (5, 1), (9, 1)])
def test_few_images(count, held_out, tmp_path):
    data = manager(scene_of(count, tmp_path / "scene"))
    assert len(data.eval_dataset) == held_out
    assert bool(data.eval_dataset) == bool(held_out)  # nerfstudio's trainer asks so whether to evaluate
    camera, batch = data.next_eval_image(3)
    assert camera.shape == (1,)
    assert batch["image"].shape[-1] == 3
    (evaluated,), _ = data.next_eval(0)
    assert evaluated.targets.num_views >= 1
    assert len(data.covering_frames(6)) == min(6, count - held_out)
    assert data.eval_dataloader.get_camera(image_idx=0)[0].shape == (1,)


def test_too_few_images_and_no_scene_are_one_error(tmp_path):
    with pytest.raises(SceneError, match="at least 2"):
        manager(scene_of(1, tmp_path / "one"))
    with pytest.raises(SceneError, match="no such file or folder"):
        manager(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match="empty"):
        manager(tmp_path / "empty")


def test_other_dataparsers():
    data = manager(dataparser=NerfstudioDataParserConfig(downscale_factor=1))
    assert data.get_datapath() == ROOM
    assert data.collection.num_scenes == 1
    assert len(data.eval_dataset) == 2
    ours = manager()
    torch.testing.assert_close(
        data.train_dataset.cameras.camera_to_worlds, ours.train_dataset.cameras.camera_to_worlds, atol=1e-4, rtol=0
    )
    assert torch.equal(data.train_dataset[3]["image"], ours.train_dataset[3]["image"])


def test_nerfstudios_commands_accept_its_types():
    data = manager(test_mode="inference")
    assert isinstance(data, VanillaDataManager)  # ns-render spiral
    assert isinstance(data.config, FullImageDatamanagerConfig)  # ns-render dataset
    assert isinstance(data.config.dataparser, Diff3RDataParserConfig)
    assert data.includes_time is False
    assert data.get_param_groups() == {}
