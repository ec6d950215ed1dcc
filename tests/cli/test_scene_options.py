# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
import torch

from ns_diff3r.cli.scene_options import SceneOptions, spread
from ns_diff3r.data import SceneError, load_scene
from tests.data.scene_files import write_scene


@pytest.mark.parametrize(
    ("count", "context", "targets"),
    [(1, [0], []), (2, [0, 1], []), (3, [0, 2], [1]), (9, [0, 2, 3, 4, 5, 6, 7, 8], [1]), (10, None, [1, 9])],
)
def test_default_split(tmp_path, count, context, targets):
    scene = load_scene(write_scene(tmp_path / "scene", num_frames=count))
    chosen = SceneOptions(scene.path).split(scene)
    assert chosen[1] == targets
    assert chosen[0] == (context or [i for i in range(count) if i not in targets])


def test_asked_for_split(tmp_path):
    scene = load_scene(write_scene(tmp_path / "scene", num_frames=10))
    assert SceneOptions(scene.path, context=(1, 3)).split(scene) == ([1, 3], [9])
    assert SceneOptions(scene.path, targets=(4,)).split(scene)[0] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert SceneOptions(scene.path, num_context=3).split(scene) == ([2, 5, 7], [1, 9])
    with pytest.raises(SceneError, match="no view 10"):
        SceneOptions(scene.path, context=(10,)).split(scene)
    with pytest.raises(SceneError, match=r"views \[3\] are asked for as context and as targets"):
        SceneOptions(scene.path, context=(3,), targets=(3,)).split(scene)
    with pytest.raises(SceneError, match="no view is left"):
        SceneOptions(scene.path, targets=tuple(range(10))).split(scene)


def test_spread_is_even_and_ordered():
    assert spread(list(range(10)), 5) == [1, 3, 5, 7, 9]
    assert spread([4, 7], 5) == [4, 7]


def test_load_gives_gaussians_seen_by_the_context(tmp_path):
    folder = write_scene(tmp_path / "scene")
    _, gaussians, context, targets = SceneOptions(folder, sh_degree=2, max_size=6).load(torch.float64)
    assert 1 < gaussians.num_gaussians <= 8
    assert gaussians.sh_degree == 2
    assert gaussians.dtype == context.dtype == torch.float64
    assert context.images.shape == (2, 4, 6, 3)
    assert targets is not None
    assert targets.num_views == 1


def test_points_are_needed(tmp_path):
    folder: Path = write_scene(tmp_path / "scene", ply_file_path=None)
    with pytest.raises(SceneError, match="no sparse points"):
        SceneOptions(folder).load(torch.float32)
