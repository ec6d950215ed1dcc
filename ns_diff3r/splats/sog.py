# SPDX-License-Identifier: Apache-2.0
"""PlayCanvas' SOG ("Spatially Ordered Gaussians"): meta.json and images whose pixels, row by row, are the Gaussians.

    means    16 bits an axis, low bytes in one image, high bytes in another, from mins to maxs of sign(x) ln(1 + |x|)
    quats    alpha - 252: which of w, x, y, z is largest; red, green, blue: the others in order, from -√½ to √½
    scales   log-scales in red, green, blue
    sh0      coefficients of the constant harmonic in red, green, blue; the opacity in alpha
    shN      optional: an image that is a palette, 64 sets of coefficients a row and one pixel a coefficient, and an
             image of labels, low byte in red, high byte in green

Version 2 looks up the bytes of scales, sh0 and shN in a codebook of 256 numbers each; alpha of sh0 is the opacity.
Version 1 (no field `version`) has mins and maxs of every channel (of all together for shN); alpha of sh0 is the logit.
Axes are those of the .ply it was made from. Format: developer.playcanvas.com, "The SOG Format"; version 1:
github.com/playcanvas/sogs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .eight_bit import logits_of_bytes
from .gaussians import Gaussians
from .sog_files import Pixels, SogFiles, opened_sog
from .sog_meta import Floats, SogMeta

COEFFICIENTS = (3, 8, 15)
"""Further coefficients at SH degree 1, 2, 3."""
SETS_PER_ROW, MAX_SETS = 64, 2**16
W_IS_LARGEST = 252
"""Alpha of a quaternion whose w is the largest; 253, 254 and 255: x, y and z."""
ROOM, LEAST_ROOM = 4, 2**16
"""An image has at most ROOM pixels a Gaussian, or LEAST_ROOM: writers round its sides up, and no further."""


def read_sog(path: str | Path) -> Gaussians:
    """Read Gaussians, float32, from a SOG of version 1 or 2: a .sog file, a folder with meta.json, or that meta.json.

    Saturated opacities of version 2 become those half a step from 0 and 1 (see `eight_bit`). A zip is read in memory,
    and an image only if its size fits the number of Gaussians.

    Raises:
        FileNotFoundError: no such .sog file.
        ValueError: another version, a field or an image that is missing or is not what the format says, or a damaged
            zip; names the file and the field.
    """
    with opened_sog(Path(path)) as files:
        meta = SogMeta.parse(files.read_meta(), f"{files.prefix}{files.meta_name}")
        gaussians = _Decoder(files, meta, meta.num_gaussians()).gaussians()
    return gaussians.check_finite(f"{path}: Gaussians")


@dataclass(frozen=True)
class _Decoder:
    """The groups of one SOG of N Gaussians, decoded to float64."""

    files: SogFiles
    meta: SogMeta
    count: int

    def gaussians(self) -> Gaussians:
        sh0, opacities = self._sh0_and_opacities()
        return Gaussians(
            means=_tensor(self._means()),
            quats=_tensor(self._quats()),
            scales=_tensor(self._values("scales", self._image("scales", 0, 1)[:, :3])),
            opacities=opacities,
            sh0=_tensor(sh0)[:, None],
            shN=_tensor(self._harmonics()),
        )

    def _image(self, group: str, index: int, of: int) -> Pixels:
        """[N, 4], the pixels of image `index` of the `of` images of a group."""
        most = max(ROOM * self.count, LEAST_ROOM)
        name = self.meta.files(group, of)[index]
        return self.files.read_image(name, f"{group}.files[{index}]", self.count, most).reshape(-1, 4)[: self.count]

    def _values(self, group: str, codes: Pixels, channels: int = 3) -> Floats:
        """What bytes stand for: an entry of the codebook, or a step from mins to maxs."""
        if self.meta.version == 2:
            return self.meta.codebook(group)[codes]
        return self._from_mins_to_maxs(group, codes / 255, channels)

    def _from_mins_to_maxs(self, group: str, fractions: Floats, channels: int) -> Floats:
        low, high = self.meta.numbers(f"{group}.mins", channels), self.meta.numbers(f"{group}.maxs", channels)
        with np.errstate(over="ignore", invalid="ignore"):  # beyond what floats hold: the check at the end says so
            return low + (high - low) * fractions

    def _means(self) -> Floats:
        low, high = (self._image("means", index, 2)[:, :3].astype(np.float64) for index in (0, 1))
        logarithms = self._from_mins_to_maxs("means", (low + 256 * high) / 65535, 3)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.sign(logarithms) * np.expm1(np.abs(logarithms))

    def _quats(self) -> Floats:
        packed = self._image("quats", 0, 1)
        encoding = self.meta.field("quats").get("encoding", "quaternion_packed")
        if encoding != "quaternion_packed":
            raise ValueError(f"{self.meta.owner}: quats.encoding must be 'quaternion_packed', got {encoding!r:.60}")
        largest = packed[:, 3].astype(np.int64) - W_IS_LARGEST
        if (largest < 0).any():
            name = self.meta.files("quats", 1)[0]
            raise ValueError(
                f"{self.files.prefix}{name} (quats.files[0]): alpha, which says what component is largest, must be "
                f"{W_IS_LARGEST} to 255, and is not for {(largest < 0).sum()} of {self.count} Gaussians"
            )
        others = (packed[:, :3] / 255 - 0.5) * math.sqrt(2)
        quats = np.empty((self.count, 4))
        quats[np.arange(4) != largest[:, None]] = others.reshape(-1)
        quats[np.arange(self.count), largest] = np.sqrt(np.clip(1 - (others**2).sum(axis=1), 0, None))
        return quats

    def _sh0_and_opacities(self) -> tuple[Floats, torch.Tensor]:
        """[N, 3], and logits [N]."""
        codes = self._image("sh0", 0, 1)
        if self.meta.version == 2:
            return self._values("sh0", codes[:, :3]), logits_of_bytes(_tensor(codes[:, 3] / 255))
        values = self._values("sh0", codes, 4)
        return values[:, :3], _tensor(values[:, 3])

    def _harmonics(self) -> Floats:
        """[N, K-1, 3]; K = 1 without further harmonics."""
        if not self.meta.has("shN"):
            return np.zeros((self.count, 0, 3))
        palette_name, labels_name = self.meta.files("shN", 2)
        most = MAX_SETS * COEFFICIENTS[-1]
        palette = self.files.read_image(palette_name, "shN.files[0]", 1, most)[..., :3]
        rows, columns = palette.shape[:2]
        if self.meta.version == 2:
            wanted: tuple[int, ...] = (COEFFICIENTS[self.meta.integer("shN.bands", len(COEFFICIENTS)) - 1],)
            sets = self.meta.integer("shN.count", MAX_SETS)
        else:
            wanted, sets = COEFFICIENTS, rows * SETS_PER_ROW
        if columns not in [number * SETS_PER_ROW for number in wanted] or rows * SETS_PER_ROW < sets:
            widths = " or ".join(str(number * SETS_PER_ROW) for number in wanted)
            raise ValueError(
                f"{self.files.prefix}{palette_name} (shN.files[0]): has {columns} × {rows} pixels, but "
                f"{widths} × {-(-sets // SETS_PER_ROW)} are needed"
            )
        labels = self._image("shN", 1, 2)[:, :2].astype(np.int64) @ np.array([1, 256])
        if labels.max() >= sets:
            raise ValueError(
                f"{self.files.prefix}{labels_name} (shN.files[1]): refers to entry {labels.max()} of the palette, "
                f"which has {sets}"
            )
        return self._values("shN", palette, 1).reshape(-1, columns // SETS_PER_ROW, 3)[labels]


def _tensor(values: NDArray[np.float64]) -> torch.Tensor:
    with np.errstate(over="ignore"):
        return torch.from_numpy(values.astype(np.float32))
