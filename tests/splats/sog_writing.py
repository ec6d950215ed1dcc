# SPDX-License-Identifier: Apache-2.0
"""A writer of SOG, both versions, by the text of the format, for the tests of its reader."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ns_diff3r.splats import Gaussians

WIDTH = 8


def write_sog(folder: Path, gaussians: Gaussians, version: int, seed: int = 0) -> dict[str, Any]:
    """Write meta.json and its images, and return meta.json's contents. The palette holds every Gaussian's own entry."""
    folder.mkdir()
    count, degree = gaussians.num_gaussians, gaussians.sh_degree
    means, quats, scales, opacities, sh0, rest = (leaf.double().numpy() for leaf in gaussians.leaves())
    meta: dict[str, Any] = {name: {} for name in ("means", "scales", "quats", "sh0")}

    def image(group: str, name: str, pixels: np.ndarray) -> None:
        rows = -(-len(pixels) // WIDTH)
        padded = np.zeros((rows * WIDTH, pixels.shape[1]), dtype=np.uint8)
        padded[: len(pixels)] = pixels
        save(group, name, padded.reshape(rows, WIDTH, -1))

    def save(group: str, name: str, pixels: np.ndarray) -> None:
        # exact: also the colours of pixels whose alpha is 0
        Image.fromarray(pixels).save(folder / f"{name}.webp", lossless=True, exact=True)
        meta[group].setdefault("files", []).append(f"{name}.webp")

    def quantised(group: str, values: np.ndarray, steps: int) -> np.ndarray:
        low, high = values.min(0), values.max(0)
        meta[group] |= {"mins": low.tolist(), "maxs": high.tolist()}
        return np.rint((values - low) / (high - low) * steps).astype(np.int64)

    def coded(group: str, values: np.ndarray) -> np.ndarray:
        """Bytes that stand for values: per channel from mins to maxs, or by one codebook, unevenly spaced."""
        if version == 1:
            return quantised(group, values, 255).astype(np.uint8)
        book = np.quantile(values, np.linspace(0, 1, 256))
        meta[group]["codebook"] = book.tolist()
        return np.abs(values[..., None] - book).argmin(-1).astype(np.uint8)

    logarithms = np.copysign(np.log1p(np.abs(means)), means)
    words = quantised("means", logarithms, 65535)
    image("means", "means_l", words & 255)
    image("means", "means_u", words >> 8)

    unit = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    packed = np.zeros((count, 4), dtype=np.uint8)
    for row, quat in zip(packed, unit, strict=True):
        largest = int(np.abs(quat).argmax())
        others = np.delete(quat, largest) * np.sign(quat[largest])
        row[:3] = np.rint((others * np.sqrt(2) * 0.5 + 0.5) * 255)
        row[3] = 252 + largest
    image("quats", "quats", packed)

    image("scales", "scales", coded("scales", scales))
    if version == 1:
        image("sh0", "sh0", coded("sh0", np.concatenate([sh0[:, 0], opacities[:, None]], axis=1)))
    else:
        alpha = np.rint(255 / (1 + np.exp(-opacities)))[:, None].astype(np.uint8)
        image("sh0", "sh0", np.concatenate([coded("sh0", sh0[:, 0]), alpha], axis=1))

    if degree:
        meta["shN"] = {}
        coefficients = rest.shape[1]
        places = np.random.default_rng(seed).permutation(-(-count // 64) * 64)[:count]  # where its entry lies
        palette = np.zeros((-(-count // 64) * 64, coefficients, 3), dtype=np.uint8)
        palette[places] = coded("shN", rest.reshape(-1)).reshape(rest.shape)
        save("shN", "shN_centroids", palette.reshape(-1, 64 * coefficients, 3))
        image("shN", "shN_labels", np.stack([places & 255, places >> 8, 0 * places], axis=1))
    if version == 1:
        shapes = {"means": [count, 3], "scales": [count, 3], "quats": [count, 4], "sh0": [count, 1, 4]}
        for group in meta:
            meta[group] |= {"shape": shapes.get(group, [count, 3 * rest.shape[1]]), "dtype": "float32"}
        meta["quats"]["encoding"] = "quaternion_packed"
    else:
        meta |= {"version": 2, "count": count, "antialias": False}
        if degree:
            meta["shN"] |= {"count": len(palette), "bands": degree}
    write_meta(folder, meta)
    return meta


def write_meta(folder: Path, meta: Any) -> None:
    (folder / "meta.json").write_text(json.dumps(meta))


def zipped(folder: Path, path: Path, within: str = "") -> Path:
    """The folder's files as a zip, in a folder of it or at its root."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, within + file.name)
    return path
