# SPDX-License-Identifier: Apache-2.0
"""SuperSplat's compressed .ply: 16 bytes per Gaussian, quantised within chunks of 256.

Element `chunk` holds the range of positions, log-scales and (in newer files) colours of 256 Gaussians; element `vertex`
four words per Gaussian, fields from the highest bit down:

    packed_position   11 + 10 + 11 bits of x, y, z within the chunk's range
    packed_scale      11 + 10 + 11 bits of the log-scales within the chunk's range
    packed_rotation   2 bits: which of w, x, y, z is largest; 3 × 10 bits: the others in order, from -√½ to √½
    packed_color      4 × 8 bits: red, green, blue within the chunk's range (or 0 to 1), and the opacity

The optional element `sh` holds f_rest_* as bytes over the range -4 to 4. Format: github.com/playcanvas/splat-transform.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from plyfile import PlyData

from .eight_bit import logits_of_bytes
from .gaussians import Gaussians
from .spherical_harmonics import rgb_to_sh0

CHUNK = 256
WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
RANGES = tuple(f"{end}_{name}" for name in ("x", "y", "z", "scale_x", "scale_y", "scale_z") for end in ("min", "max"))

Floats = NDArray[np.float64]


def is_compressed(ply: PlyData) -> bool:
    """True if the file has chunks of packed Gaussians."""
    return "chunk" in ply and "vertex" in ply and "packed_position" in ply["vertex"].data.dtype.names


def decode_compressed_ply(ply: PlyData, path: str | Path) -> Gaussians:
    """Gaussians of a compressed .ply, float64.

    Saturated opacities become those half a step from 0 and 1 (see `eight_bit`).

    Raises:
        ValueError: a property or a chunk is missing; names the file.
    """
    vertices, chunks = ply["vertex"].data, ply["chunk"].data
    for element, data, wanted in (("vertex", vertices, WORDS), ("chunk", chunks, RANGES)):
        missing = [name for name in wanted if name not in data.dtype.names]
        if missing:
            raise ValueError(f"{path}: element '{element}' lacks the properties {', '.join(missing)}")
    num = len(vertices)
    if len(chunks) * CHUNK < num:
        raise ValueError(f"{path}: {num} Gaussians need {-(-num // CHUNK)} chunks of {CHUNK}, it has {len(chunks)}")

    chunk_of = np.arange(num) // CHUNK

    def within_chunk(fractions: Floats, names: tuple[str, str, str]) -> Floats:
        low, high = (np.stack([chunks[f"{end}_{n}"][chunk_of] for n in names], axis=-1) for end in ("min", "max"))
        return low * (1 - fractions) + high * fractions

    position, rotation, scale, color = (vertices[word].astype(np.uint32) for word in WORDS)
    rgba = unpack(color, (8, 8, 8, 8))
    rgb = within_chunk(rgba[:, :3], ("r", "g", "b")) if "min_r" in chunks.dtype.names else rgba[:, :3]
    return Gaussians(
        means=torch.from_numpy(within_chunk(unpack(position, (11, 10, 11)), ("x", "y", "z"))),
        quats=torch.from_numpy(_unpack_quats(rotation)),
        scales=torch.from_numpy(within_chunk(unpack(scale, (11, 10, 11)), ("scale_x", "scale_y", "scale_z"))),
        opacities=logits_of_bytes(torch.from_numpy(rgba[:, 3])),
        sh0=rgb_to_sh0(torch.from_numpy(rgb))[:, None],
        shN=torch.from_numpy(_sh_rest(ply, num, path)),
    )


def unpack(words: NDArray[np.uint32], bits: tuple[int, ...]) -> Floats:
    """Fields of 32-bit words from the highest bit down, each scaled to [0, 1]; shape [N, number of fields]."""
    fields, shift = [], 32
    for width in bits:
        shift -= width
        fields.append((words >> np.uint32(shift) & np.uint32(2**width - 1)) / (2**width - 1))
    return np.stack(fields, axis=-1).astype(np.float64)


def _unpack_quats(words: NDArray[np.uint32]) -> Floats:
    others = (unpack(words << np.uint32(2), (10, 10, 10)) - 0.5) * np.sqrt(2)
    largest = np.sqrt(np.maximum(0.0, 1.0 - np.sum(others**2, axis=-1)))
    which = (words >> np.uint32(30)).astype(np.int64)
    quats = np.empty((len(words), 4))
    quats[np.arange(4) != which[:, None]] = others.reshape(-1)
    quats[np.arange(len(words)), which] = largest
    return quats


def _sh_rest(ply: PlyData, num: int, path: str | Path) -> Floats:
    if "sh" not in ply:
        return np.zeros((num, 0, 3))
    data = ply["sh"].data
    names = [f"f_rest_{index}" for index in range(len(data.dtype.names))]
    if len(names) not in (9, 24, 45) or set(names) != set(data.dtype.names) or len(data) != num:
        raise ValueError(
            f"{path}: element 'sh' must hold f_rest_0 to f_rest_8, 23 or 44 of {num} Gaussians, "
            f"it has {len(names)} properties of {len(data)}"
        )
    values = np.stack([data[name] for name in names], axis=-1).astype(np.float64)
    # A byte stands for the middle of its interval, but the first and the last for the ends.
    fractions = np.where(values == 0, 0.0, np.where(values == 255, 1.0, (values + 0.5) / 256))
    return np.ascontiguousarray((8 * fractions - 4).reshape(num, 3, len(names) // 3).transpose(0, 2, 1))
