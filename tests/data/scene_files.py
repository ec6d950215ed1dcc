# SPDX-License-Identifier: Apache-2.0
"""A small scene in nerfstudio's format, written to a folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 12, 8


def pose(angle: float, position: tuple[float, float, float]) -> list[list[float]]:
    """Camera-to-world with OpenGL axes, turned about the world's y."""
    c, s = np.cos(angle), np.sin(angle)
    return [[c, 0, s, position[0]], [0, 1, 0, position[1]], [-s, 0, c, position[2]], [0, 0, 0, 1]]


def write_scene(
    folder: Path, *, num_frames: int = 3, frame_fields: dict[str, Any] | None = None, **fields: Any
) -> Path:
    """Images of random pixels, poses along x, a cube of points; `fields` replace top-level fields (None removes)."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    frames = []
    for i in range(num_frames):
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": pose(0.1 * i, (0.2 * i, 0, 0))})
    frames[0].update(frame_fields or {})
    content: dict[str, Any] = {"camera_model": "OPENCV", "fl_x": 10.0, "fl_y": 11.0, "cx": 6.5, "cy": 4.25}
    content |= {"w": WIDTH, "h": HEIGHT, "k1": 0.0, "ply_file_path": "sparse_pc.ply", "frames": frames, **fields}
    content = {name: value for name, value in content.items() if value is not None}
    (folder / "transforms.json").write_text(json.dumps(content))
    corners = "".join(f"{x} {y} {-3 + z} 255 128 0\n" for x in (-1, 1) for y in (-1, 1) for z in (-1, 1))
    header = "ply\nformat ascii 1.0\nelement vertex 8\n" + "".join(f"property float {a}\n" for a in "xyz")
    header += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue")) + "end_header\n"
    (folder / "sparse_pc.ply").write_text(header + corners)
    return folder
