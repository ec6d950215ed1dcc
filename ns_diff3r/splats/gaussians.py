# SPDX-License-Identifier: Apache-2.0
"""The Gaussians of a scene: raw parameters, which are also the vector type of the solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .checks import require_finite, require_shape, require_tensors
from .covariances import quats_scales_to_covariances
from .flat_layout import as_one_view, broadcast_left, leaf_shapes, slices_of
from .spherical_harmonics import MAX_SH_DEGREE

GROUPS = ("means", "quats", "scales", "opacities", "sh0", "shN")
"""Parameter groups in the order of the flat layout."""


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Raw (unactivated) parameters of N Gaussians, with gsplat's names, order and activations.

    The same container holds tangents, gradients and priors of a scene, so construction checks shapes, dtype and device
    but never values; `check_finite` does, where a scene enters.

    Attributes:
        means: [N, 3] world units.
        quats: [N, 4] wxyz, not normalised; the rotation is that of quats / |quats|.
        scales: [N, 3] logarithm of the standard deviations along the rotated axes, world units.
        opacities: [N] logit of the opacity.
        sh0: [N, 1, 3] coefficient of the constant spherical harmonic; colour = 0.5 + Σ Y·sh.
        shN: [N, K-1, 3] further coefficients, K = (degree + 1)², degree 0 to 4.

    Raises:
        TypeError: a leaf is not a float32 or float64 tensor, or the dtypes differ.
        ValueError: a leaf has the wrong shape, or the devices differ.
    """

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, " N"]
    sh0: Float[Tensor, "N 1 3"]
    shN: Float[Tensor, "N K-1 3"]

    def __post_init__(self) -> None:
        require_tensors("Gaussians", dict(self.items()))
        require_shape("Gaussians", "means", self.means, ("N", 3))
        require_shape("Gaussians", "shN", self.shN, (self.num_gaussians, "K-1", 3))
        if math.isqrt(self.shN.shape[1] + 1) ** 2 != self.shN.shape[1] + 1 or self.sh_degree > MAX_SH_DEGREE:
            raise ValueError(
                f"Gaussians.shN must hold 0, 3, 8, 15 or 24 coefficients (degree 0 to {MAX_SH_DEGREE}), "
                f"got {self.shN.shape[1]}"
            )
        for name, shape in leaf_shapes(self.num_gaussians, self.sh_degree).items():
            require_shape("Gaussians", name, getattr(self, name), shape)

    # --- what it is ---

    @property
    def num_gaussians(self) -> int:
        """N."""
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 4."""
        return math.isqrt(self.shN.shape[1] + 1) - 1

    @property
    def dtype(self) -> torch.dtype:
        """Data type of every tensor."""
        return self.means.dtype

    @property
    def device(self) -> torch.device:
        """Device of every tensor."""
        return self.means.device

    @property
    def num_parameters(self) -> int:
        """P, the length of the flat layout: (14 + 3 (K-1)) N."""
        return sum(leaf.numel() for leaf in self.leaves())

    @property
    def requires_grad(self) -> bool:
        """True if any leaf requires a gradient."""
        return any(leaf.requires_grad for leaf in self.leaves())

    def leaves(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The six tensors in the order of GROUPS; `Gaussians(*g.leaves())` is g."""
        return self.means, self.quats, self.scales, self.opacities, self.sh0, self.shN

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """(group name, tensor) in the order of GROUPS."""
        return zip(GROUPS, self.leaves(), strict=True)

    def __repr__(self) -> str:
        return (
            f"Gaussians(num_gaussians={self.num_gaussians}, sh_degree={self.sh_degree}, "
            f"dtype={self.dtype}, device={self.device})"
        )

    def check_finite(self, owner: str = "Gaussians") -> Gaussians:
        """Return self, or raise ValueError naming the first group that holds a NaN or an infinity, and their count."""
        if not torch.stack([leaf.detach().isfinite().all() for leaf in self.leaves()]).all():  # one wait for all
            for name, leaf in self.items():
                require_finite(owner, name, leaf)
        return self

    # --- activated quantities ---

    @property
    def scales_activated(self) -> Float[Tensor, "N 3"]:
        """Standard deviations exp(scales), world units."""
        return self.scales.exp()

    @property
    def opacities_activated(self) -> Float[Tensor, " N"]:
        """Opacities sigmoid(opacities) in (0, 1)."""
        return self.opacities.sigmoid()

    def covariances(self) -> Float[Tensor, "N 3 3"]:
        """World covariances R S² Rᵀ."""
        return quats_scales_to_covariances(self.quats, self.scales_activated)

    # --- leafwise operations ---

    def map(self, fn: Callable[[Tensor], Tensor]) -> Gaussians:
        """Apply `fn` to every leaf."""
        return Gaussians(*(fn(leaf) for leaf in self.leaves()))

    def combine(self, fn: Callable[..., Tensor], *others: Gaussians) -> Gaussians:
        """Apply `fn(leaf, *other_leaves)` group by group: `a.combine(torch.add, b)` is a + b."""
        return Gaussians(*(fn(*leaves) for leaves in zip(self.leaves(), *(o.leaves() for o in others), strict=True)))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Gaussians:
        """Copy to a device and/or dtype (leaves already there are shared); differentiable."""
        return self.map(lambda leaf: leaf.to(device=device, dtype=dtype))

    def detach(self) -> Gaussians:
        """Same storage, cut from autograd."""
        return self.map(Tensor.detach)

    def clone(self) -> Gaussians:
        """Copy; differentiable."""
        return self.map(Tensor.clone)

    def contiguous(self) -> Gaussians:
        """Each leaf contiguous (not necessarily one after the other; see `flatten`)."""
        return self.map(Tensor.contiguous)

    def zeros_like(self) -> Gaussians:
        """Zeros of this shape, whose leaves lie in one storage."""
        return self.unflatten(torch.zeros(self.num_parameters, dtype=self.dtype, device=self.device))

    def requires_grad_(self, requires_grad: bool = True) -> Gaussians:
        """Set requires_grad of every leaf in place."""
        for leaf in self.leaves():
            leaf.requires_grad_(requires_grad)
        return self

    def __getitem__(self, index: Bool[Tensor, " N"] | Int[Tensor, " M"] | slice) -> Gaussians:
        """Select Gaussians by a boolean mask, a vector of indices, or a slice; differentiable."""
        if isinstance(index, Tensor):
            if index.ndim != 1 or index.is_floating_point():
                raise TypeError(
                    f"Gaussians: index with a mask or a vector of integers, got {index.dtype} {list(index.shape)}"
                )
        elif not isinstance(index, slice):
            raise TypeError(f"Gaussians: index with a mask, a vector of integers or a slice, got {index!r}")
        return self.map(lambda leaf: leaf[index])

    @staticmethod
    def concatenate(scenes: Sequence[Gaussians]) -> Gaussians:
        """The Gaussians of several scenes in one; ValueError for none or for different SH degrees."""
        degrees = sorted({scene.sh_degree for scene in scenes})
        if len(degrees) != 1:
            raise ValueError(f"Gaussians.concatenate: needs scenes of one SH degree, got degrees {degrees}")
        return Gaussians(*(torch.cat(leaves) for leaves in zip(*(scene.leaves() for scene in scenes), strict=True)))

    def with_sh_degree(self, degree: int) -> Gaussians:
        """Coefficients cut off above `degree`, or filled with zeros up to it; differentiable."""
        if not 0 <= degree <= MAX_SH_DEGREE:
            raise ValueError(f"Gaussians: SH degree must be 0 to {MAX_SH_DEGREE}, got {degree}")
        missing = (degree + 1) ** 2 - 1 - self.shN.shape[1]
        kept = self.shN[:, : (degree + 1) ** 2 - 1]
        sh_rest = torch.cat([kept, kept.new_zeros(self.num_gaussians, missing, 3)], dim=1) if missing > 0 else kept
        return Gaussians(self.means, self.quats, self.scales, self.opacities, self.sh0, sh_rest)

    # --- the flat layout ---

    def flatten(self) -> Float[Tensor, " P"]:
        """All parameters as one vector: group after group in the order of GROUPS, each row-major.

        Shares storage with the leaves when they already lie one after the other (as `unflatten` leaves them) and
        autograd does not watch them; otherwise a differentiable copy.
        """
        shared = as_one_view(self.leaves())
        return shared if shared is not None else torch.cat([leaf.reshape(-1) for leaf in self.leaves()])

    def unflatten(self, flat: Float[Tensor, " P"]) -> Gaussians:
        """Gaussians of this shape whose leaves are views of `flat`; inverse of `flatten`."""
        return Gaussians.from_flat(flat, self.num_gaussians, self.sh_degree)

    @staticmethod
    def from_flat(flat: Float[Tensor, " P"], num_gaussians: int, sh_degree: int) -> Gaussians:
        """Gaussians whose leaves are views of `flat`; ValueError unless its length is that of the layout."""
        shapes = leaf_shapes(num_gaussians, sh_degree)
        slices, total = slices_of(shapes)
        if flat.shape != (total,):
            raise ValueError(
                f"Gaussians.from_flat: {num_gaussians} Gaussians of SH degree {sh_degree} need a vector of {total} "
                f"numbers, got shape {list(flat.shape)}"
            )
        return Gaussians(**{name: flat[slices[name]].view(shape) for name, shape in shapes.items()})

    def group_slices(self) -> dict[str, slice]:
        """Group name → its slice of the flat layout."""
        return slices_of(leaf_shapes(self.num_gaussians, self.sh_degree))[0]

    def broadcast(self, **values: Tensor | float) -> Gaussians:
        """Gaussians of this shape from values that broadcast from the left, as a prior needs them.

        A value is a number, [N] or [N, 1] (one per Gaussian), or anything up to the leaf's own shape ([N, 3], …, [1, 3]
        for one per parameter of the group). Groups left out are zero. Differentiable, without copies (`expand`).

        Raises:
            ValueError: an unknown group or a shape that does not fit.
        """
        unknown = sorted(set(values) - set(GROUPS))
        if unknown:
            raise ValueError(f"Gaussians.broadcast: unknown group {unknown}; the groups are {list(GROUPS)}")
        return Gaussians(**{name: broadcast_left(name, values.get(name, 0.0), leaf) for name, leaf in self.items()})

    # --- construction from activated values, and files ---

    @staticmethod
    def from_activated(
        means: Float[Tensor, "N 3"],
        quats: Float[Tensor, "N 4"],
        scales: Float[Tensor, "N 3"],
        opacities: Float[Tensor, " N"],
        *,
        colors: Float[Tensor, "N 3"] | None = None,
        sh: Float[Tensor, "N K 3"] | None = None,
    ) -> Gaussians:
        """From standard deviations, opacities in [0, 1] and either RGB colours or SH; see `activations`."""
        from .activations import gaussians_from_activated

        return gaussians_from_activated(means, quats, scales, opacities, colors=colors, sh=sh)

    @staticmethod
    def from_covariances(
        means: Float[Tensor, "N 3"],
        covariances: Float[Tensor, "N 3 3"],
        opacities: Float[Tensor, " N"],
        *,
        colors: Float[Tensor, "N 3"] | None = None,
        sh: Float[Tensor, "N K 3"] | None = None,
    ) -> Gaussians:
        """From world covariances, opacities in [0, 1] and either RGB colours or SH; see `activations`."""
        from .activations import gaussians_from_covariances

        return gaussians_from_covariances(means, covariances, opacities, colors=colors, sh=sh)

    @staticmethod
    def load_ply(path: str | Path) -> Gaussians:
        """Read a .ply in the standard 3DGS layout; see `ply.read_ply`."""
        from .ply import read_ply

        return read_ply(path)

    @staticmethod
    def load(path: str | Path) -> Gaussians:
        """Read .ply (standard or compressed), .splat, .spz or SOG; see `formats.load_gaussians`."""
        from .formats import load_gaussians

        return load_gaussians(path)

    def save_ply(self, path: str | Path) -> None:
        """Write a .ply in the standard 3DGS layout (float32); see `ply.write_ply`."""
        from .ply import write_ply

        write_ply(self, path)
