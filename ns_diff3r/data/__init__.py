# SPDX-License-Identifier: Apache-2.0
"""Scenes from files and from generators, choices of their views, and Gaussians to begin with."""

from .batches import SceneBatch
from .collection import CollectionConfig, SceneCollection, open_collection
from .errors import ImageError, SceneError, SceneWarning
from .frames import Frame
from .generated_settings import GENERATED, GeneratedConfig, is_generated
from .image_cache import ImageCache
from .initialization import gaussians_from_points, points_in_views
from .intrinsics import Intrinsics
from .lenses import Distortion
from .photographs import Photograph, scene_from_photographs
from .readers import load_scene
from .reading_ahead import ReadAhead
from .sampler import BatchSampler, EvaluationItem, SamplerConfig, SceneIndices
from .scenes import PointCloud, Scene
from .split import SplitConfig, split_indices

__all__ = [
    "GENERATED",
    "BatchSampler",
    "CollectionConfig",
    "Distortion",
    "EvaluationItem",
    "Frame",
    "GeneratedConfig",
    "ImageCache",
    "ImageError",
    "Intrinsics",
    "Photograph",
    "PointCloud",
    "ReadAhead",
    "SamplerConfig",
    "Scene",
    "SceneBatch",
    "SceneCollection",
    "SceneError",
    "SceneIndices",
    "SceneWarning",
    "SplitConfig",
    "gaussians_from_points",
    "is_generated",
    "load_scene",
    "open_collection",
    "points_in_views",
    "scene_from_photographs",
    "split_indices",
]
