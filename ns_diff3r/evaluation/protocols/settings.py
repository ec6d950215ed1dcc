# SPDX-License-Identifier: Apache-2.0
"""What a protocol consists of. What the paper leaves open is a field each; `open_choices` lists them beside results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ...data.split import SplitConfig
from ...dataclass_state import DefaultsForMissingFields
from ...rasterization import resolve_preset
from ..alignment import RotationFrom
from ..pose_refinement import PoseRefinementConfig
from .views import ExtraViews, OwnViews

OFFICIAL_NEAR, OFFICIAL_FAR = 0.5, 100.0
"""DepthSplat's depth range on RealEstate10K, in the units of its poses."""

_OPEN = {
    "image_size": "as the released models were trained on RealEstate10K",
    "near": f"{OFFICIAL_NEAR:g} for chunks, as in the official code, elsewhere from the data",
    "far": f"{OFFICIAL_FAR:g} for chunks, as in the official code, elsewhere from the data",
    "undistort": "renderers are pinhole cameras; RealEstate10K has no distortion",
    "split": "without an evaluation index alone",
    "own_views": "without an evaluation index alone; targets between context views, as in the paper's data",
    "tto_rate_factor": "as each network was trained; the paper states no learning rates",
    "preset": "as each network was trained: the original rasteriser for released DepthSplat, else gsplat's",
}
_OPEN_UNPOSED = {
    "image_size": "the multiple of 14 next to 256, which Depth Anything 3 needs; 256 is resized to it",
    "extra_views": "none of the published indices names views 3 and 4",
    "alignment": "axes and centres, Umeyama's scale; centres alone leave a turn open on straight paths",
    "target_intrinsics": "the photographs' own",
    "target_poses": "rates and number of steps of the protocol that the paper cites",
}


@dataclass
class PosedProtocol(DefaultsForMissingFields):
    """Given poses: two context views, 50 steps of test-time optimisation."""

    num_context: int = 2
    """Context views."""
    tto_steps: int = 50
    """Steps of test-time optimisation."""
    image_size: tuple[int, int] = (256, 256)
    """(height, width) of every view: Lanczos on 8 bit to the smallest size that covers it, then the centre."""
    extra_views: ExtraViews = "even"
    """Context views beyond those that the evaluation index names. even: at equal steps between the outermost of these;
    random: any between them, by a seed of the scene's name; spread: those whose cameras are farthest from the others.
    Targets are never among them."""
    near: float | None = None
    """Smallest depth, world units; default: 0.5 for chunks, else from the scene's points or cameras."""
    far: float | None = None
    """Largest depth, world units; default: 100 for chunks, else from the scene's points or cameras."""
    undistort: bool = True
    """Take photographs as a pinhole camera would have."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Without an evaluation index: which images of a scene may be targets."""
    own_views: OwnViews = "nearest"
    """Without an evaluation index: the held-out image that has the nearest training images, with these as its context,
    as targets lie between context views in the paper's data; or all held-out images, and a context that covers them."""
    tto_rate_factor: float | None = None
    """Multiplies the learning rates of test-time optimisation; default: as each row's network was trained."""
    preset: str | None = None
    """Renderer semantics (`ns_diff3r.rasterization.PRESETS`) of every row; default: each row's own."""
    alignment: RotationFrom = "cameras"
    """For rows that predict cameras: what turns the given world into theirs. cameras: the cameras' axes and directions
    between their centres; centers: Umeyama's rotation. The scale is Umeyama's in both cases."""
    target_intrinsics: Literal["given", "predicted"] = "given"
    """For rows that predict cameras: focal lengths of target views as given, or times the mean ratio of predicted to
    given focal lengths of the context."""

    OPEN: ClassVar[Mapping[str, str]] = _OPEN
    """Fields that the paper leaves open, and what speaks for the default."""

    def __post_init__(self) -> None:
        if self.num_context < 2 or self.tto_steps < 0:
            raise ValueError(
                f"a protocol needs num_context >= 2 and tto_steps >= 0, not {self.num_context} and {self.tto_steps}"
            )
        if min(self.image_size) < 1:
            raise ValueError(f"image_size must be positive, not {self.image_size}")
        if self.preset is not None:
            resolve_preset(self.preset)
        near, far = self.near, self.far
        if (near is not None and near <= 0) or (far is not None and far <= (near or 0)):
            raise ValueError(f"near and far must satisfy 0 < near < far, not near = {near}, far = {far}")

    @property
    def pose(self) -> PoseRefinementConfig | None:
        """How target poses are refined; None: not at all, since poses are given."""
        return None


@dataclass
class UnposedProtocol(PosedProtocol):
    """Predicted poses: four context views; target poses are optimised once on the frozen prediction, and serve before
    and after 300 steps of test-time optimisation."""

    num_context: int = 4
    """Context views."""
    tto_steps: int = 300
    """Steps of test-time optimisation."""
    image_size: tuple[int, int] = (252, 252)
    """(height, width) of every view: Lanczos on 8 bit to the smallest size that covers it, then the centre."""
    target_poses: PoseRefinementConfig = field(default_factory=PoseRefinementConfig)
    """Optimisation of target poses on the prediction."""

    OPEN: ClassVar[Mapping[str, str]] = {**_OPEN, **_OPEN_UNPOSED}

    @property
    def pose(self) -> PoseRefinementConfig | None:
        """How target poses are refined."""
        return self.target_poses


def open_choices(protocol: PosedProtocol) -> list[tuple[str, str, str]]:
    """(field, value, why) of what the paper leaves open; why is "given" where the value is not the default."""
    usual = type(protocol)()
    return [
        (name, _text(getattr(protocol, name)), why if getattr(protocol, name) == getattr(usual, name) else "given")
        for name, why in protocol.OPEN.items()
    ]


def _text(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, SplitConfig):
        return f"every {value.every}th from {value.first}"
    if isinstance(value, PoseRefinementConfig):
        rates = f"{value.rotation_rate:g} rad and {value.translation_rate:g} of the depth"
        return f"{value.num_steps} steps of Adam at {rates}"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
