# SPDX-License-Identifier: Apache-2.0
"""One row on one scene: predict, refine target poses, optimise, and judge before and after."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...data import SceneCollection
from ...data.batches import SceneBatch
from ...data.chunk_scenes import ChunkCollection
from ...data.official_crop import official_views
from ...splats import Cameras
from ..metrics import ImageMetrics
from ..pose_refinement import PoseRefinement, mean_squared_error, refine_poses
from .rows import Row, RowPrediction
from .settings import OFFICIAL_FAR, OFFICIAL_NEAR, PosedProtocol
from .views import ProtocolScene

LPIPS_WEIGHT = 0.05
"""Of LPIPS beside the MSE in the optimisation of target poses, as in the training loss."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """Figures and pictures of a row on one scene.

    Attributes:
        figures: target frame → column of the results file → value.
        before, after: [V, H, W, 3] renders of the target views in [0, 1].
    """

    figures: dict[int, dict[str, Any]]
    before: Float[Tensor, "V H W 3"]
    after: Float[Tensor, "V H W 3"]


def load_scene_views(collection: SceneCollection, scene: ProtocolScene, protocol: PosedProtocol) -> SceneBatch:
    """The views of a scene as the protocol wants them.

    Raises:
        ValueError: a frame that does not exist, an image that cannot be read or is too small.
    """
    chunks = isinstance(collection, ChunkCollection)
    near = protocol.near if protocol.near is not None else OFFICIAL_NEAR if chunks else None
    far = protocol.far if protocol.far is not None else OFFICIAL_FAR if chunks else None
    frames, count = (*scene.context, *scene.targets), len(scene.context)
    source = collection.scene(scene.index)
    views = official_views(source, frames, protocol.image_size, near, far, protocol.undistort)
    return SceneBatch(scene.name, views[:count], views[count:], scene.index, scene.context, scene.targets)


@torch.no_grad()
def measure(row: Row, batch: SceneBatch, protocol: PosedProtocol, metrics: ImageMetrics) -> Measurement:
    """A row on a scene, before and after test-time optimisation.

    Raises:
        ValueError, FileNotFoundError: the row cannot predict this scene.
    """
    begin = time.perf_counter()
    prediction = row.predict(batch)
    predicted = time.perf_counter() - begin
    poses = refined(row, prediction, batch.targets.images, protocol, metrics)
    targets: Cameras = prediction.targets if poses is None else poses.cameras
    begin = time.perf_counter()
    gaussians, status = prediction.gaussians, "no steps"
    if row.tto.num_steps > 0:
        gaussians, solution = row.layer()(prediction.gaussians, prediction.prior, prediction.context)
        status = solution.status.value
    optimised = time.perf_counter() - begin
    before, after = (row.draw(g, targets).clamp(0, 1) for g in (prediction.gaussians, gaussians))
    figures: dict[int, dict[str, Any]] = {}
    for view, frame in enumerate(batch.target_indices):
        found = metrics.before_and_after(before[view], after[view], batch.targets.images[view])
        figures[frame] = {
            **{name: value for name, value in found.items() if not name.endswith("_gain")},
            "gaussians": prediction.gaussians.num_gaussians,
            "predict_seconds": predicted,
            "tto_seconds": optimised,
            "tto_status": status,
            "alignment_degrees": None if prediction.alignment is None else prediction.alignment.angle_error,
            **({} if poses is None else _pose_figures(poses, view)),
        }
    return Measurement(figures, before, after)


def refined(
    row: Row,
    prediction: RowPrediction,
    images: Float[Tensor, "V H W 3"],
    protocol: PosedProtocol,
    metrics: ImageMetrics,
) -> PoseRefinement | None:
    """Target poses, optimised once on θ⁰; None in protocols with given poses. The loss is MSE + 0.05 LPIPS where LPIPS
    is among the metrics, else MSE."""
    if protocol.pose is None:
        return None

    def loss(drawn: Float[Tensor, "V H W 3"], truth: Float[Tensor, "V H W 3"]) -> Float[Tensor, " V"]:
        value = mean_squared_error(drawn, truth)
        return value if metrics.lpips is None else value + LPIPS_WEIGHT * metrics.lpips(drawn, truth)

    return refine_poses(prediction.gaussians, prediction.targets, images, row.draw, protocol.pose, loss)


def _pose_figures(poses: PoseRefinement, view: int) -> dict[str, Any]:
    return {
        "pose_status": poses.status[view].value,
        "pose_loss_before": float(poses.loss_before[view]),
        "pose_loss_after": float(poses.loss_after[view]),
    }
