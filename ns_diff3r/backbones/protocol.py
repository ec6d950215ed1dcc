# SPDX-License-Identifier: Apache-2.0
"""What a feed-forward backbone is: Views → Prediction. External packages implement it and name it in their config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor, nn

from ..dataclass_state import DefaultsForMissingFields
from ..splats import Cameras, Gaussians, Views


@dataclass(frozen=True, eq=False)
class Prediction:
    """Gaussians of one scene, and what the uncertainty head reads about each of them.

    Attributes:
        gaussians: N Gaussians, raw parameters, in the world of the context cameras.
        features: [N, F] one row per Gaussian, in their order.
        grid: (views, height, width) where the first views·height·width Gaussians are one per pixel in the order view,
            row, column; maps of per-Gaussian quantities can then be drawn. Further Gaussians, which belong to no pixel,
            may follow. None otherwise.
        cameras: of the context views as the network found them, in the same world; test-time optimisation compares
            with the photographs through these. None: the context's own.
        coarse: Gaussians of earlier, rougher estimates, which training draws as well where nothing else would train
            the parts that made them (while training only).

    Raises:
        ValueError: numbers of rows that do not agree.
    """

    gaussians: Gaussians
    features: Float[Tensor, "N F"]
    grid: tuple[int, int, int] | None = None
    cameras: Cameras | None = None
    coarse: tuple[Gaussians, ...] = ()

    def __post_init__(self) -> None:
        count = self.gaussians.num_gaussians
        if self.features.ndim != 2 or self.features.shape[0] != count:
            raise ValueError(f"Prediction.features must be [{count}, F], got {list(self.features.shape)}")
        if self.grid is not None and self.grid[0] * self.grid[1] * self.grid[2] > count:
            raise ValueError(f"Prediction.grid {self.grid} needs more than the {count} Gaussians that there are")

    def as_seen(self, context: Views) -> Views:
        """The context with the cameras that test-time optimisation takes: the predicted ones where there are some."""
        if self.cameras is None:
            return context
        return replace(context, cameras=self.cameras.to(context.device, context.dtype))


class Backbone(nn.Module, ABC):
    """A network from context views to Gaussians. One scene a call; any world scale, any number of views from 2.

    A subclass is constructed from its config alone, loads no weights and uses no network in its constructor.
    """

    feature_dim: int
    """F, the width of `Prediction.features`."""
    sh_degree: int
    """Degree of the spherical harmonics of the predicted Gaussians, 0 to 4."""
    predicts_cameras: bool = False
    """Whether it does without the cameras of the context, and says in `Prediction.cameras` what it found."""
    uses_points: bool = False
    """Whether it reads `Views.points` of the context; Gaussians are then added for those that no view sees."""

    @abstractmethod
    def forward(self, context: Views) -> Prediction:
        """Predict the Gaussians of the scene that `context` shows, in the world of its cameras.

        Raises:
            ValueError: too few views, or a depth range that the network needs and `context` lacks.
        """

    @abstractmethod
    def gaussian_head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the part that turns features into Gaussians, which stage 2 trains (design §2); the others are
        the backbone proper."""

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the backbone proper that are a pretrained image encoder; they have a learning rate of their own."""
        return iter(())

    def idle_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that no prediction depends on, as official checkpoints may hold some; they are never trained."""
        return iter(())


@dataclass
class BackboneConfig(DefaultsForMissingFields):
    """Settings of a backbone; `_target` names its class, in this package or another."""

    _target: type[Backbone] = field(default_factory=lambda: Backbone)

    def setup(self) -> Backbone:
        """The network, with weights initialised from torch's current random state."""
        return self._target(self)  # pyright: ignore[reportCallIssue] - a subclass takes its config
