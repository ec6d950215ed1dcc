# SPDX-License-Identifier: Apache-2.0
"""Gaussians, cameras, views, frames, spherical harmonics and the files that hold them: the lowest Python layer."""

from .cameras import Cameras
from .frames import Similarity, normalized_frame
from .gaussians import GROUPS, Gaussians
from .sparse_points import SparsePoints
from .spherical_harmonics import spherical_harmonics
from .views import Views

__all__ = [
    "GROUPS",
    "Cameras",
    "Gaussians",
    "Similarity",
    "SparsePoints",
    "Views",
    "normalized_frame",
    "spherical_harmonics",
]
