# SPDX-License-Identifier: Apache-2.0
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# nerfstudio narrows attributes by annotation, and its signatures name the rays of other methods.
"""nerfstudio's model: the trainable network, and the Gaussians of the active scene, to be drawn and exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import tyro
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor
from torch.nn import Parameter

from .backbones.compact import CompactConfig
from .backbones.protocol import BackboneConfig
from .backbones.uncertainty import UncertaintyHeadConfig
from .data import SceneBatch
from .dataclass_state import DefaultsForMissingFields
from .evaluation.metrics import ImageMetrics
from .maps import error_against, nearest_view, relative_uncertainty
from .nerfstudio_cameras import to_cameras
from .rasterization import render
from .rasterization.protocol import Rendering
from .splats import GROUPS, Cameras, Gaussians, Views
from .splats.painting import painted
from .splats.spherical_harmonics import sh0_to_rgb
from .training.config import TrainingConfig
from .training.network import build_network
from .training.outputs import StepOutput
from .training.step import TrainingModule

Outputs = dict[str, Float[Tensor, "H W C"]]


@dataclass(frozen=True)
class RunTrainingConfig(TrainingConfig):
    """Settings of training; how many steps there are is --max-num-iterations."""

    num_steps: tyro.conf.Suppress[int] = 20_000


@dataclass
class Diff3RModelConfig(DefaultsForMissingFields, ModelConfig):
    """The network, and how it is trained."""

    _target: type = field(default_factory=lambda: Diff3RModel)
    backbone: BackboneConfig = field(default_factory=CompactConfig)
    """Network from photographs to Gaussians; its `_target` may come from another package."""
    uncertainty_head: UncertaintyHeadConfig = field(default_factory=UncertaintyHeadConfig)
    """Network from its features to λ."""
    training: RunTrainingConfig = field(default_factory=RunTrainingConfig)
    """Stages, losses, test-time optimisation, learning rates."""
    lpips_metric: Literal["auto", "on", "off"] = "auto"
    """LPIPS in evaluation: "auto" where its VGG weights are found, "on" demands them, "off"."""
    maps: bool = True
    """Whether renderings come with maps of uncertainty and of the error against the nearest context photograph; they
    cost one more rendering."""
    sh_degree: tyro.conf.Suppress[int] = 0
    """Degree of the Gaussians on show, for ns-export; the model sets it in its own copy."""
    enable_collider: tyro.conf.Suppress[bool] = False
    collider_params: tyro.conf.Suppress[dict[str, float] | None] = None
    loss_coefficients: tyro.conf.Suppress[dict[str, float]] = field(default_factory=dict)
    eval_num_rays_per_chunk: tyro.conf.Suppress[int] = 4096
    prompt: tyro.conf.Suppress[str | None] = None


@dataclass(frozen=True, eq=False)
class ActiveScene:
    """A reconstructed scene in nerfstudio's world. Replaced as a whole, so that a rendering never sees half of one.

    Attributes:
        before: θ⁰.
        after: θ*; θ⁰ itself if nothing was optimised.
        prior: λ per attribute group, or None.
        context: the photographs that it was made from, or None.
    """

    before: Gaussians
    after: Gaussians
    prior: Mapping[str, Float[Tensor, "N ..."]] | None = None
    context: Views | None = None

    @staticmethod
    def nothing() -> ActiveScene:
        """One Gaussian that cannot be seen: nerfstudio's viewer looks at the Gaussians before there are any."""
        dot = Gaussians(
            means=torch.zeros(1, 3),
            quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
            scales=torch.full((1, 3), -10.0),
            opacities=torch.full((1,), -10.0),
            sh0=torch.zeros(1, 1, 3),
            shN=torch.zeros(1, 0, 3),
        )
        return ActiveScene(dot, dot)


class Diff3RModel(SplatfactoModel):
    """A SplatfactoModel by type only, as ns-export and the viewer ask for it: what trains, renders or loads is our own.

    The Gaussians of the active scene are neither parameters nor buffers: no checkpoint holds them, and no process sends
    them to another.

    Attributes:
        scene: the active scene.
        core: network, test-time optimisation and loss; all that is trained and saved.
        show_after: whether renderings show the scene after test-time optimisation, or before.
        uncertainty_group: attribute group of the uncertainty map.
    """

    config: Diff3RModelConfig

    def populate_modules(self) -> None:
        """Build the network under its own seed; no weight is loaded and nothing is downloaded."""
        self.config = copy(self.config)
        training = self.config.training
        network = build_network(self.config.backbone, self.config.uncertainty_head, training.seed)
        scaler = self.kwargs.get("grad_scaler")
        self.core = TrainingModule(network, training, grad_scaler=scaler is not None and scaler.is_enabled())
        self.config.sh_degree = network.backbone.sh_degree
        self.show_after = True
        self.uncertainty_group = GROUPS[0]
        self.crop_box: OrientedBox | None = None
        background = training.tto.background or (0.0, 0.0, 0.0)
        self.background_color = torch.tensor(background)
        self.scene = ActiveScene.nothing()
        self._metrics: ImageMetrics | None = None

    # --- training ---

    def forward(self, batches: Sequence[SceneBatch], step: int) -> StepOutput:
        """One training step; DistributedDataParallel wraps this call."""
        return self.core(batches, step)

    def get_param_groups(self) -> dict[str, list[Parameter]]:
        """ "backbone", "trunk", "gaussian_head" and "uncertainty_head"; the same in both stages."""
        return self.core.network.param_groups()

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """None: nothing is densified."""
        return []

    def get_metrics_dict(self, outputs: Any, batch: Any) -> dict[str, Tensor]:
        """Scalars of a step, for callers that go through nerfstudio's own pipeline."""
        return {name: torch.tensor(value) for name, value in outputs.scalars.items()}

    def get_loss_dict(self, outputs: Any, batch: Any, metrics_dict: Any = None) -> dict[str, Tensor]:
        """Terms of the loss of a step."""
        return outputs.losses

    def load_state_dict(self, dict: Mapping[str, Any], **kwargs: Any) -> Any:
        """torch's own: SplatfactoModel's looks for Gaussians."""
        return Model.load_state_dict(self, dict, **kwargs)

    # --- the active scene ---

    @property
    def gaussians(self) -> Gaussians:
        """Gaussians on show, in nerfstudio's world."""
        return self.scene.after if self.show_after else self.scene.before

    @property
    def gauss_params(self) -> dict[str, Tensor]:
        """The same under nerfstudio's names, never empty: quaternions normalised, opacities [N, 1], SH [N, 3] and the
        rest."""
        gaussians = self.gaussians
        return {
            "means": gaussians.means,
            "scales": gaussians.scales,
            "quats": torch.nn.functional.normalize(gaussians.quats, dim=-1),
            "features_dc": gaussians.sh0[:, 0],
            "features_rest": gaussians.shN,
            "opacities": gaussians.opacities[:, None],
        }

    @property
    def colors(self) -> Float[Tensor, "N 3"]:
        """Colours without their dependence on direction."""
        return sh0_to_rgb(self.gaussians.sh0[:, 0])

    @property
    def shs_0(self) -> Float[Tensor, "N 3"]:
        """Constant spherical harmonics, whatever the degree."""
        return self.gaussians.sh0[:, 0]

    # --- rendering ---

    def get_outputs(self, camera: NerfstudioCameras) -> Outputs:
        """Images of the active scene: rgb, depth (camera z), accumulation and, if configured, uncertainty and error.

        Nothing is optimised and nothing is kept here: the viewer may stop it at any line.

        Args:
            camera: one perspective camera in nerfstudio's world. ValueError for another kind.
        """
        scene = self.scene
        gaussians = scene.after if self.show_after else scene.before
        cameras = to_cameras(camera).to(gaussians.device)
        background = self.background_color.to(gaussians.means)
        chosen = None
        if self.crop_box is not None and not self.training:
            chosen = self.crop_box.within(gaussians.means).reshape(-1)
            gaussians = gaussians[chosen]
        rendering = self._draw(gaussians, cameras, background)
        outputs = {"rgb": rendering.rgb[0].clamp(0, 1), "depth": rendering.depth[0], "accumulation": rendering.alpha[0]}
        if self.config.maps:
            outputs |= self._maps(scene, gaussians, chosen, cameras, outputs)
        return outputs

    def _maps(
        self, scene: ActiveScene, gaussians: Gaussians, chosen: Tensor | None, cameras: Cameras, outputs: Outputs
    ) -> Outputs:
        zero = torch.zeros_like(outputs["depth"])
        uncertainty = error = zero
        if scene.prior is not None:
            values = relative_uncertainty(scene.prior, self.uncertainty_group)
            values = values if chosen is None else values[chosen]
            uncertainty = self._draw(painted(gaussians, values), cameras, torch.zeros(3)).rgb[0, ..., :1]
        if scene.context is not None:
            photograph = scene.context[nearest_view(scene.context.cameras, cameras)]
            error = error_against(photograph, cameras, outputs["rgb"], outputs["depth"], outputs["accumulation"])
        return {"uncertainty": uncertainty, "error": error}

    def _draw(self, gaussians: Gaussians, cameras: Cameras, background: Float[Tensor, " 3"]) -> Rendering:
        """By the renderer of test-time optimisation."""
        config = self.config.training.tto
        return render(
            gaussians,
            cameras,
            preset=config.preset,
            background=background.to(gaussians.means),
            antialiased=config.antialiased,
            backend=config.backend,
        )

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: NerfstudioCameras, obb_box: OrientedBox | None = None) -> Outputs:
        """`get_outputs` within a crop box, or of everything."""
        self.set_crop(obb_box)
        return self.get_outputs(camera)

    def get_rgba_image(self, outputs: Outputs, output_name: str = "rgb") -> Float[Tensor, "H W 4"]:
        """Colours without the background, and coverage."""
        alpha = outputs["accumulation"]
        background = self.background_color.to(alpha)
        color = (outputs[output_name] - (1 - alpha) * background) / alpha.clamp(min=1e-10)
        return torch.cat([color.clamp(0, 1), alpha], dim=-1)

    # --- metrics ---

    def metrics(self, smallest_side: int) -> ImageMetrics:
        """Metrics of this run; which there are is settled at the first call, by the smaller side of its images."""
        if self._metrics is None:
            weights = self.config.training.losses.vgg_weights
            self._metrics = ImageMetrics.find(self.config.lpips_metric, weights, smallest_side)
        return self._metrics

    def get_image_metrics_and_images(
        self, outputs: Outputs, batch: Mapping[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of the active scene as shown, of the same keys for every image; photograph beside rendering."""
        truth = batch["image"].to(outputs["rgb"])
        figures = self.metrics(min(truth.shape[:2]))(outputs["rgb"], truth)
        images = {"img": torch.cat([truth, outputs["rgb"]], dim=1)}
        return figures, images | {name: outputs[name] for name in ("uncertainty", "error") if name in outputs}
