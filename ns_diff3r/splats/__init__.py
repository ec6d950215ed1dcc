# SPDX-License-Identifier: Apache-2.0
"""Gaussians, cameras, views, frames, spherical harmonics and the files that hold them: the lowest Python layer."""

from .cameras import Cameras
from .gaussians import GROUPS, Gaussians
from .views import Views

__all__ = ["GROUPS", "Cameras", "Gaussians", "Views"]
