# SPDX-License-Identifier: Apache-2.0
"""Scenes from files and from generators, and Gaussians to begin with."""

from .errors import ImageError, SceneError
from .initialization import gaussians_from_points, points_in_views
from .intrinsics import Intrinsics
from .scenes import Frame, PointCloud, Scene, load_scene

__all__ = [
    "Frame",
    "ImageError",
    "Intrinsics",
    "PointCloud",
    "Scene",
    "SceneError",
    "gaussians_from_points",
    "load_scene",
    "points_in_views",
]
