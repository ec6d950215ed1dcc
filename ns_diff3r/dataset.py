# SPDX-License-Identifier: Apache-2.0
"""Frames of one scene as nerfstudio's dataset: pictures as the network sees them, cameras in nerfstudio's world."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from .data import SceneCollection
from .dataparser import Placement, list_scene


class SceneDataset(InputDataset):
    """Frames of a scene, possibly none; images are read when they are asked for, through the collection's cache.

    What is read is the upright, undistorted picture at the collection's size, not the file.
    """

    def __init__(self, collection: SceneCollection, scene: int, frames: tuple[int, ...], placement: Placement) -> None:
        super().__init__(list_scene(collection, scene, frames, placement))
        self.collection = collection
        self.scene = scene
        self.frames = frames

    def get_image_float32(self, image_idx: int) -> Float[Tensor, "H W 3"]:
        """Picture of the frame with that place in the dataset, in [0, 1]."""
        return self.collection.views(self.scene, [self.frames[image_idx]]).images[0]

    def get_image_uint8(self, image_idx: int) -> UInt8[Tensor, "H W 3"]:
        """The same in 8 bit."""
        return (self.get_image_float32(image_idx) * 255.0).round().to(torch.uint8)

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """The same as an array."""
        return self.get_image_uint8(image_idx).numpy()

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """nerfstudio's batch of one image; also `scene` and `frame`, which say where it is from."""
        read = self.get_image_uint8 if image_type == "uint8" else self.get_image_float32
        return {"image_idx": image_idx, "image": read(image_idx), "scene": self.scene, "frame": self.frames[image_idx]}


class DatasetViews:
    """(camera [1], batch) of every image of a dataset in turn, read one at a time: a data loader without workers."""

    def __init__(self, dataset: SceneDataset, device: torch.device) -> None:
        self.dataset = dataset
        self.device = device

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple[Cameras, dict[str, Any]]]:
        return (self.get_camera(index) for index in range(len(self)))

    def get_camera(self, image_idx: int = 0) -> tuple[Cameras, dict[str, Any]]:
        """Camera and batch of one image, on the device."""
        batch = self.dataset[image_idx]
        batch["image"] = batch["image"].to(self.device)
        return self.dataset.cameras[image_idx : image_idx + 1].to(self.device), batch
