# SPDX-License-Identifier: Apache-2.0
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# nerfstudio narrows attributes by annotation, and its signatures name the rays of other methods.
"""nerfstudio's datamanager over many scenes: batches of context and target views, and one active scene to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import DataManager, VanillaDataManager
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.utils.comms import get_rank
from torch.nn import Parameter

from .compat import usable_device
from .data import BatchSampler, CollectionConfig, ReadAhead, SamplerConfig, SceneBatch, SceneCollection
from .data.view_selection import covering_views, view_distances
from .dataclass_state import DefaultsForMissingFields
from .dataparser import Diff3RDataParser, Diff3RDataParserConfig, Placement
from .dataset import DatasetViews, SceneDataset
from .nerfstudio_scenes import scene_from_dataparser
from .run_checks import warnings_on_console


@dataclass
class Diff3RDataManagerConfig(DefaultsForMissingFields, FullImageDatamanagerConfig):
    """Which scenes, which of their images, and how views are chosen for a training step."""

    _target: type = field(default_factory=lambda: Diff3RDataManager)
    dataparser: AnnotatedDataParserUnion = field(default_factory=Diff3RDataParserConfig)
    """What reads the data; any dataparser of nerfstudio by its sub-command."""
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    """Scenes, held-out images, image size, depth range."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Context and target views of a training step and of evaluation."""
    workers: int = 2
    """Threads that read scenes of the next steps while one is taken; 0: none. Results do not depend on it."""
    # What nerfstudio's own image cache and batches would need; commands of nerfstudio set some of them.
    masks_on_gpu: tyro.conf.Suppress[bool] = False
    images_on_gpu: tyro.conf.Suppress[bool] = False
    camera_res_scale_factor: tyro.conf.Suppress[float] = 1.0
    eval_num_images_to_sample_from: tyro.conf.Suppress[int] = -1
    eval_num_times_to_repeat_images: tyro.conf.Suppress[int] = -1
    eval_image_indices: tyro.conf.Suppress[tuple[int, ...] | None] = None
    cache_images: tyro.conf.Suppress[Literal["cpu", "gpu"]] = "gpu"
    cache_images_type: tyro.conf.Suppress[Literal["uint8", "float32"]] = "float32"
    max_thread_workers: tyro.conf.Suppress[int | None] = None
    train_cameras_sampling_strategy: tyro.conf.Suppress[Literal["random", "fps"]] = "random"
    train_cameras_sampling_seed: tyro.conf.Suppress[int] = 42
    fps_reset_every: tyro.conf.Suppress[int] = 100


class Diff3RDataManager(FullImageDatamanager, VanillaDataManager):
    """Scenes for training, and the active scene for viewer, evaluation images and export.

    Nothing of the bases' construction runs: no image is read or cached before it is asked for, and no memory is pinned.
    A full-image datamanager, as `ns-render dataset` demands, and a "vanilla" one, as `ns-render spiral` does.

    Attributes:
        collection: all scenes.
        batch_sampler: chooses the views of a step.
        active: index of the active scene.
        placement: of the active scene in nerfstudio's world.
        train_dataset: its training images.
        eval_dataset: its held-out images, possibly none.
    """

    config: Diff3RDataManagerConfig
    train_dataset: SceneDataset
    eval_dataset: SceneDataset
    train_dataparser_outputs: DataparserOutputs

    def __init__(
        self,
        config: Diff3RDataManagerConfig,
        device: torch.device | str = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        self.config = config
        self.device = usable_device(device)
        self.world_size, self.local_rank = world_size, local_rank
        self.sampler = None
        self.test_mode = test_mode
        self.test_split = "test" if test_mode in ("test", "inference") else "val"
        if config.data is None:
            config.data = config.dataparser.data
        else:
            config.dataparser.data = Path(config.data)
        self.dataparser_config = config.dataparser
        self.dataparser = config.dataparser.setup()
        self.includes_time = False
        with warnings_on_console():
            first = self._open()
            self.batch_sampler = BatchSampler(config.sampler, self.collection)
        self._reading: ReadAhead | None = None
        self.exclude_batch_keys_from_device: list[str] = []
        self.set_active_scene(first)
        DataManager.__init__(self)

    def _open(self) -> int:
        """Make the collection; returns the index of the scene to begin with."""
        self._placements: dict[int, Placement] = {}
        if isinstance(self.dataparser, Diff3RDataParser):
            self.collection = self.dataparser.open(self.config.collection)
            return self.dataparser.first_scene(self.collection)
        scene, self._placements[0] = scene_from_dataparser(self.dataparser)
        self.collection = SceneCollection.from_scenes([scene], self.config.collection)
        return 0

    def set_active_scene(self, index: int) -> None:
        """Choose the scene that viewer, evaluation images and export show."""
        if index not in self._placements:
            self._placements[index] = self.dataparser.placement(self.collection.scene(index))
        self.active, self.placement = index, self._placements[index]
        training, evaluation = self.collection.training_indices(index), self.collection.evaluation_indices(index)
        self.train_dataset = SceneDataset(self.collection, index, training, self.placement)
        self.eval_dataset = SceneDataset(self.collection, index, evaluation, self.placement)
        self.train_dataparser_outputs = self.train_dataset._dataparser_outputs

    # --- training ---

    def next_train(self, step: int) -> tuple[list[SceneBatch], dict[str, Any]]:
        """Scenes of a training step, a pure function of the sampler's seed, the step and the process."""
        self.train_count += 1
        if self._reading is None:
            self._reading = ReadAhead(self.batch_sampler, self.config.workers, get_rank(), self.world_size)
        batches = self._reading.batch(step)
        return [batch.to(self.device) for batch in batches], {}

    def get_train_rays_per_batch(self) -> int:
        """Target pixels of a training step."""
        cameras = self.collection.cameras(self.active, self.train_dataset.frames[:1])
        sampler = self.config.sampler
        return cameras.width * cameras.height * sampler.num_targets * sampler.scenes_per_step

    # --- evaluation ---

    def next_eval(self, step: int) -> tuple[list[SceneBatch], dict[str, Any]]:
        """One evaluation item of the evaluation scenes, each in turn: its context, and its held-out images."""
        self.eval_count += 1
        scenes = self.collection.evaluation_scenes
        if not self.collection.is_read_ahead:  # one scene is read, not all
            scenes = [scenes[step % len(scenes)]]
        items = [item for scene in scenes for item in self.batch_sampler.evaluation_items(scene)]
        if not items:  # an evaluation index leaves this scene out
            return self.next_eval(step + 1)
        return [self.batch_sampler.load(items[step % len(items)]).to(self.device)], {}

    def next_eval_image(self, step: int) -> tuple[Cameras, dict[str, Any]]:
        """One held-out image of the active scene, each in turn; a training image where none is held out."""
        self.eval_count += 1
        views = self.eval_dataloader
        return views.get_camera(step % len(views))

    @property
    def fixed_indices_eval_dataloader(self) -> DatasetViews:
        """(camera, batch) of the held-out images of the active scene; reads nothing before it is iterated."""
        return DatasetViews(self.eval_dataset, self.device)

    @property
    def eval_dataloader(self) -> DatasetViews:
        """The same, or the training images where none is held out, so that there is a camera to begin a path at."""
        return DatasetViews(self.eval_dataset or self.train_dataset, self.device)

    def covering_frames(self, count: int) -> tuple[int, ...]:
        """At most `count` training images of the active scene, such that every image of it has one of them near."""
        training = self.collection.training_indices(self.active)
        frames = self.collection.scene(self.active).frames
        return covering_views(view_distances(frames), range(len(frames)), training, max(2, count))

    # --- what else nerfstudio asks for ---

    def get_datapath(self) -> Path:
        """Where the data is, beside which the viewer keeps camera paths."""
        return Path(self.config.dataparser.data)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """Nothing is trained here."""
        return {}
