# SPDX-License-Identifier: Apache-2.0
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# nerfstudio narrows attributes by annotation, and its signatures name the rays of other methods.
"""The dataparser `diff3r-data`: one scene or a folder of scenes, read by our own readers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_utils import auto_orient_and_center_poses
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from torch import Tensor

from .data import CollectionConfig, Scene, SceneCollection, SceneError, open_collection
from .dataclass_state import DefaultsForMissingFields
from .nerfstudio_cameras import from_cameras
from .splats import Similarity


@dataclass
class Diff3RDataParserConfig(DefaultsForMissingFields, DataParserConfig):
    """Scenes in the formats that ns-diff3r reads; no other package is needed for them."""

    _target: type = field(default_factory=lambda: Diff3RDataParser)
    data: Path = Path()
    """One scene (a folder with transforms.json or a COLMAP model, or the transforms.json), a folder of scenes or of
    chunks, "generated", or a file that names several such sources (.json, .yaml)."""
    scene: str | None = None
    """Scene that viewer, evaluation images and export begin with; default: the first. Training uses all."""
    orientation_method: Literal["pca", "up", "vertical", "none"] = "up"
    """How the scene is turned in the viewer and in what nerfstudio exports; training works in the data's own axes."""
    center_method: Literal["poses", "focus", "none"] = "poses"
    """What becomes the origin there."""
    auto_scale_poses: bool = True
    """Whether the cameras are scaled into the unit cube there."""


@dataclass(frozen=True)
class Placement:
    """Where nerfstudio's world lies in relation to the data's.

    Attributes:
        similarity: data's world → nerfstudio's world.
        transform: [3, 4] the rigid part, which comes first; nerfstudio's `dataparser_transform`.
        scale: nerfstudio's `dataparser_scale`.
    """

    similarity: Similarity
    transform: Float[Tensor, "3 4"]
    scale: float

    @staticmethod
    def identity() -> Placement:
        """The data's world is nerfstudio's."""
        return Placement(Similarity.identity(torch.float64), torch.eye(4)[:3], 1.0)


class Diff3RDataParser(DataParser):
    """See the config; what our datamanager uses is `open` and `placement`."""

    config: Diff3RDataParserConfig

    def open(self, config: CollectionConfig | None = None) -> SceneCollection:
        """The scenes under `data`; no image is opened. SceneError if there is none that can be used."""
        if self.config.data == Path():
            raise SceneError("no data given: --data names a scene, or a folder of scenes")
        from .nerfstudio_sources import open_with_dataparser  # which needs this module

        return open_collection(self.config.data, config, open_with_dataparser)

    def first_scene(self, collection: SceneCollection) -> int:
        """Index of the scene to begin with; SceneError if there is none of that name."""
        if self.config.scene is None:
            return collection.evaluation_scenes[0]
        if self.config.scene not in collection.names:
            raise SceneError(f"scene: there is no {self.config.scene!r}; the scenes are {', '.join(collection.names)}")
        return collection.names.index(self.config.scene)

    def placement(self, scene: Scene) -> Placement:
        """Where nerfstudio shows a scene: upright, centred, cameras in the unit cube, as its own dataparsers do."""
        poses = torch.from_numpy(np.stack([frame.camera_to_world for frame in scene.frames])).double()
        oriented, transform = auto_orient_and_center_poses(
            poses.float(), method=self.config.orientation_method, center_method=self.config.center_method
        )
        if not bool(transform.isfinite().all()):  # cameras whose mean has no direction
            oriented, transform = auto_orient_and_center_poses(poses.float(), method="none")
        scale = 1.0
        if self.config.auto_scale_poses:
            largest = float(oriented[:, :3, 3].abs().max())
            scale = 1.0 / largest if largest > 0.0 else 1.0
        rotation = _nearest_rotation(transform[:, :3].double())
        similarity = Similarity(rotation.new_tensor(scale), rotation, scale * transform[:, 3].double())
        return Placement(similarity, _before(transform, _applied_transform(scene.path)), scale)

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        """nerfstudio's listing of the scene to begin with, images at the size of the files."""
        collection = self.open()
        index = self.first_scene(collection)
        training = split == "train"
        frames = collection.training_indices(index) if training else collection.evaluation_indices(index)
        return list_scene(collection, index, frames, self.placement(collection.scene(index)))


def list_scene(
    collection: SceneCollection, index: int, frames: tuple[int, ...], placement: Placement
) -> DataparserOutputs:
    """Files and cameras of some frames of a scene in nerfstudio's world; `frames` may be empty."""
    scene = collection.scene(index)
    cameras = collection.cameras(index, frames or (0,), dtype=torch.float64)
    cameras = placement.similarity.apply_cameras(cameras)
    return DataparserOutputs(
        image_filenames=[scene.frames[frame].image_path for frame in frames],
        cameras=from_cameras(cameras if frames else cameras[:0]),
        dataparser_transform=placement.transform,
        dataparser_scale=placement.scale,
    )


def _nearest_rotation(matrix: Float[Tensor, "3 3"]) -> Float[Tensor, "3 3"]:
    u, _, vh = torch.linalg.svd(matrix)
    return u @ vh


def _applied_transform(path: Path) -> Float[Tensor, "3 4"] | None:
    """What ns-process-data has applied to the original poses before it wrote transforms.json, where it says so."""
    file = path / "transforms.json" if path.is_dir() else path
    try:
        matrix = json.loads(file.read_text(encoding="utf-8")).get("applied_transform")
        return None if matrix is None else torch.tensor(matrix, dtype=torch.float32).reshape(3, 4)
    except (OSError, ValueError, AttributeError, TypeError, RuntimeError):
        return None


def _before(transform: Float[Tensor, "3 4"], first: Float[Tensor, "3 4"] | None) -> Float[Tensor, "3 4"]:
    """`transform` after `first`."""
    if first is None:
        return transform
    return transform @ torch.cat([first, first.new_tensor([[0.0, 0.0, 0.0, 1.0]])])
