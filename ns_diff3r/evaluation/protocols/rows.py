# SPDX-License-Identifier: Apache-2.0
"""Rows of a protocol: what predicts the Gaussians of a scene, and how test-time optimisation holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...backbones.depthsplat import DepthSplatConfig
from ...data.batches import SceneBatch
from ...rasterization import PRESETS, render
from ...solver import BackwardMode, DifferentiableTTO, TTOConfig
from ...splats import Cameras, Gaussians, Views
from ...training.config import TrainingConfig
from ...training.inference import evaluating
from ...training.step import unusable
from ...training.weights import TrainedNetwork
from ..alignment import CameraAlignment, align_cameras
from .settings import PosedProtocol

Prior = Literal["learned", "none"] | float
ORIGINAL = replace(PRESETS["inria"], near_plane=PRESETS["gsplat-1.4.0"].near_plane)
"""The original rasteriser's rules, for networks that were trained with it. Its near plane, 0.2, is a length
of the world, which may have any unit."""


@dataclass(frozen=True, eq=False)
class RowPrediction:
    """What a row says about one scene, in a world of its own.

    Attributes:
        gaussians: θ⁰.
        prior: λ of test-time optimisation, as `DifferentiableTTO` takes it; None: none.
        context: the context views with the cameras that test-time optimisation takes.
        targets: cameras of the target views, where their optimisation (if any) begins.
        alignment: how the given world was brought into this one; None where they are the same.
    """

    gaussians: Gaussians
    prior: Any
    context: Views
    targets: Cameras
    alignment: CameraAlignment | None = None


class Row(ABC):
    """One row of the table.

    Attributes:
        name: of the row.
        tto: settings of its test-time optimisation and of the renderer that draws it everywhere.
    """

    name: str
    tto: TTOConfig

    @abstractmethod
    def predict(self, batch: SceneBatch) -> RowPrediction:
        """Predict a scene. ValueError if that is not possible."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What its figures depend on, as plain values."""

    def layer(self) -> DifferentiableTTO:
        """Test-time optimisation in evaluation mode."""
        return DifferentiableTTO(self.tto).eval()

    def draw(self, gaussians: Gaussians, cameras: Cameras) -> Float[Tensor, "V H W 3"]:
        """Images by the renderer of test-time optimisation; differentiable."""
        background = None if self.tto.background is None else gaussians.means.new_tensor(self.tto.background)
        return render(
            gaussians,
            cameras,
            preset=self.tto.preset,
            background=background,
            antialiased=self.tto.antialiased,
            backend=self.tto.backend,
        ).rgb


def row_settings(protocol: PosedProtocol, training: TrainingConfig, original: bool = False) -> TTOConfig:
    """Test-time optimisation and renderer of a row under a protocol.

    Args:
        protocol: steps, and what it fixes for all rows.
        training: settings that the row's network was trained with.
        original: the row's own renderer is the original rasteriser.
    """
    if protocol.tto_rate_factor is not None:
        training = replace(training, tto_rate_factor=protocol.tto_rate_factor)
    config = replace(training.evaluation_config(protocol.tto_steps), backward_mode=BackwardMode.NONE)
    preset: Any = protocol.preset or (ORIGINAL if original else config.preset)  # the renderer takes settings as well
    return replace(config, preset=preset)


class NetworkRow(Row):
    """A network of ours, trained or as published.

    Raises:
        ValueError: a network that needs poses in a protocol without them.
    """

    def __init__(self, name: str, network: TrainedNetwork, protocol: PosedProtocol, prior: Prior | None = None) -> None:
        """`prior`: λ at test: as predicted, none, or one number; None: as predicted where training has reached its
        second stage, which trains λ, else none."""
        self.name, self.network, self.protocol = name, network, protocol
        settings = network.settings
        if protocol.pose is not None and not network.module.network.backbone.predicts_cameras:
            raise ValueError(
                f"row {name!r}: {type(settings.backbone).__name__} takes given poses, and this protocol "
                "gives none; it belongs to `reproduce posed`"
            )
        trained = network.step > settings.training.stages.boundary(settings.training.num_steps)
        self.prior: Prior = prior if prior is not None else "learned" if trained else "none"
        original = network.step == 0 and isinstance(settings.backbone, DepthSplatConfig)
        self.tto = row_settings(protocol, network.module.config, original)

    def identity(self) -> dict[str, Any]:
        """See `Row`."""
        return {"sha256": self.network.sha256, "step": self.network.step, "prior": self.prior}

    def layer(self) -> DifferentiableTTO:
        """See `Row`; with the D of training."""
        layer = DifferentiableTTO(self.tto)
        layer.curvature_scale = self.network.module.tto.curvature_scale
        layer.training = False  # not layer.eval(), which would reach into the shared buffers
        return layer

    @torch.no_grad()
    def predict(self, batch: SceneBatch) -> RowPrediction:
        """See `Row`."""
        module = self.network.module
        with evaluating(module):
            output = module.network(batch.context, with_prior=self.prior == "learned")
        context = output.prediction.as_seen(batch.context)
        fault = unusable(output, context.cameras)
        if fault is not None:
            raise ValueError(f"the prediction cannot be used: {fault}")
        prior = output.prior if self.prior == "learned" else None if self.prior == "none" else self.prior
        if output.prediction.cameras is None:
            return RowPrediction(output.gaussians, prior, context, batch.targets.cameras)
        alignment = align_cameras(context.cameras, batch.context.cameras, self.protocol.alignment)
        targets = alignment.similarity.inverse().apply_cameras(batch.targets.cameras)
        if self.protocol.target_intrinsics == "predicted":
            targets = with_focal_ratio(targets, context.cameras, batch.context.cameras)
        return RowPrediction(output.gaussians, prior, context, targets, alignment)


def with_focal_ratio(cameras: Cameras, predicted: Cameras, given: Cameras) -> Cameras:
    """Cameras whose focal lengths are multiplied by the geometric mean, over views, of predicted to given ones."""
    diagonal = [k.Ks[:, [0, 1], [0, 1]].double() for k in (predicted, given)]
    ratio = (diagonal[0] / diagonal[1]).log().mean(0).exp().to(cameras.Ks)
    Ks = cameras.Ks.clone()
    Ks[:, [0, 1], [0, 1]] *= ratio
    return Cameras(cameras.viewmats, Ks, cameras.width, cameras.height)
