# SPDX-License-Identifier: Apache-2.0
"""Options that the commands on a scene share, and what they load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..data import Scene
    from ..splats import Gaussians, Views

HELD_OUT_EVERY = 8


@dataclass
class SceneOptions:
    """Which scene, which of its views, and the Gaussians to begin with."""

    data: Path
    """Folder with a transforms.json in nerfstudio's format, or that file."""
    context: tuple[int, ...] = ()
    """Indices of the views that TTO fits; default: all that are not targets, or `num_context` of them."""
    num_context: int = 0
    """Take this many context views, spread over the sequence; 0: all."""
    targets: tuple[int, ...] = ()
    """Indices of the held-out views; default: every 8th."""
    max_size: int = 240
    """Longest side of the images; larger ones are averaged down."""
    num_gaussians: int = 0
    """Begin with this many Gaussians, a random subset of the sparse points; 0: one per point."""
    sh_degree: int = 1
    """Degree of the spherical harmonics, 0 to 4."""
    seed: int = 0
    """Seed of everything random."""

    def split(self, scene: Scene) -> tuple[list[int], list[int]]:
        """(context, target) indices.

        Raises:
            SceneError: an index out of range or in both, or no view left for the context.
        """
        from ..data import SceneError

        count = scene.num_frames
        for index in (*self.context, *self.targets):
            if not 0 <= index < count:
                raise SceneError(f"{scene.path}: there is no view {index}, the scene has {count}")
        targets = list(self.targets)
        if not targets and count >= 3:
            targets = [i for i in range(count) if i % HELD_OUT_EVERY == 1 and i not in self.context]
        both = sorted(set(targets) & set(self.context))
        if both:
            raise SceneError(f"{scene.path}: views {both} are asked for as context and as targets")
        context = list(self.context) or [i for i in range(count) if i not in targets]
        if not context:
            raise SceneError(f"{scene.path}: no view is left for the context")
        if self.num_context and not self.context:
            context = spread(context, self.num_context)
        return context, targets

    def load(self, dtype: torch.dtype) -> tuple[Scene, Gaussians, Views, Views | None]:
        """The scene, the Gaussians to begin with (in its world), its context and its target views (None: none left).

        Raises:
            SceneError: also for a scene without sparse points, which these Gaussians begin from.
        """
        from ..data import PointCloud, SceneError, gaussians_from_points, load_scene, points_in_views

        scene = load_scene(self.data)
        context_indices, target_indices = self.split(scene)
        context = scene.views(context_indices, max_size=self.max_size, dtype=dtype)
        targets = scene.views(target_indices, max_size=self.max_size, dtype=dtype) if target_indices else None
        if scene.points is None:
            raise SceneError(f"{scene.path}: no sparse points (field ply_file_path), which the Gaussians begin from")
        seen = points_in_views(scene.points, context.cameras)
        cloud = PointCloud(scene.points.points[seen], scene.points.colors[seen])
        gaussians = gaussians_from_points(
            cloud, sh_degree=self.sh_degree, max_gaussians=self.num_gaussians or None, seed=self.seed, dtype=dtype
        )
        return scene, gaussians, context, targets


def spread(items: list[int], count: int) -> list[int]:
    """`count` of the items, evenly spread, in order; all if there are not more."""
    if count >= len(items):
        return items
    return [items[((2 * i + 1) * len(items)) // (2 * count)] for i in range(count)]
