# SPDX-License-Identifier: Apache-2.0
"""Exact photographs of a smooth texture on the plane z = -4, by any lens, stored in any EXIF orientation.

The colour of a pixel follows from the world point that it shows, so that views read back can be checked against their
own cameras: a wrong pose, focal length, half pixel, crop or turn shows as a wrong colour.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ns_diff3r.data.lenses import Distortion
from ns_diff3r.splats import Cameras, Views

DEPTH = 4.0
INVERSE = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}


def texture(points: torch.Tensor) -> torch.Tensor:
    """[..., 2] positions on the plane to RGB in [0.1, 0.9]; a period is 2 to 4 units, of the 4.8 that a photograph is
    wide."""
    x, y = (0.4 * points).unbind(-1)
    waves = [torch.sin(4.1 * x + 1.3 * y), torch.sin(5.3 * y - 2.2 * x + 1), torch.sin(6.1 * x) * torch.cos(4.7 * y)]
    return 0.5 + 0.4 * torch.stack(waves, dim=-1)


def plane_points(cameras: Cameras, pixels: torch.Tensor) -> torch.Tensor:
    """[n, 2] where the rays through pixels [n, 2] of the only camera meet the plane."""
    K, rotation, center = cameras.Ks[0], cameras.viewmats[0, :3, :3], cameras.centers[0]
    slopes = (pixels - K[:2, 2]) / K[[0, 1], [0, 1]]
    directions = torch.cat([slopes, torch.ones_like(slopes[:, :1])], dim=-1) @ rotation
    return (center + directions * ((-DEPTH - center[2]) / directions[:, 2:]))[:, :2]


def pixel_centres(width: int, height: int) -> torch.Tensor:
    x, y = torch.arange(width).double() + 0.5, torch.arange(height).double() + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def picture(cameras: Cameras, distortion: Distortion | None = None) -> torch.Tensor:
    """[H, W, 3] what the only camera sees through a lens; float64."""
    K = cameras.Ks[0]
    focal, center = K[[0, 1], [0, 1]], K[:2, 2]
    seen = (pixel_centres(cameras.width, cameras.height) - center) / focal
    ideal = seen
    for _ in range(200):  # fixed point of seen = distort(ideal)
        change = seen - (distortion or Distortion()).distort(ideal)
        ideal = ideal + change
        if change.abs().max() < 1e-10:
            break
    else:
        raise ValueError(f"{distortion} has no inverse here")
    colors = texture(plane_points(cameras, ideal * focal + center))
    return colors.reshape(cameras.height, cameras.width, 3)


def largest_error(views: Views, margin: int = 0) -> float:
    """Largest difference of any view from what its own camera should see, `margin` pixels at the border left out."""
    inside = slice(margin, -margin or None)
    errors = []
    for v in range(views.num_views):
        camera = views.cameras[v].to(dtype=torch.float64)
        errors.append((views.images[v].double() - picture(camera))[inside, inside].abs().max())
    return float(torch.stack(errors).max())


def camera(angle: float, x: float, width: int = 60, height: int = 40) -> tuple[Any, Cameras]:
    """Camera-to-world (OpenGL) and the camera, turned by `angle` about y and rolled a little."""
    c, s = math.cos(angle), math.sin(angle)
    roll_c, roll_s = math.cos(0.1), math.sin(0.1)
    yaw = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    roll = np.array([[roll_c, -roll_s, 0], [roll_s, roll_c, 0], [0, 0, 1]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = yaw @ roll, (x, 0.2, 0.1)
    focal = 50.0 * width / 60
    K = torch.tensor([[focal, 0, width / 2 + 1.25], [0, 1.04 * focal, height / 2 - 0.75], [0, 0, 1]]).double()
    return pose, Cameras.from_camera_to_world_opengl(torch.from_numpy(pose)[None], K[None], width, height)


def write_plane_scene(
    folder: Path,
    *,
    distortion: Distortion | None = None,
    orientations: tuple[int, ...] = (1, 1, 1),
    upright: bool = False,
    size: tuple[int, int] = (60, 40),
    suffix: str = "png",
    **fields: Any,
) -> Path:
    """One photograph per orientation. Its camera is that of the stored raster, or with `upright` that of the image as
    EXIF turns it."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for i, orientation in enumerate(orientations):
        pose, cameras = camera(0.08 * i - 0.08, 0.3 * i, *size)
        pixels = (picture(cameras, distortion) * 255).round().byte().numpy()
        image = Image.fromarray(pixels)
        if upright:
            tag = Image.Exif()
            tag[0x0112] = INVERSE[orientation]
            image.info["exif"] = tag.tobytes()
            image.getexif()[0x0112] = INVERSE[orientation]
            image = ImageOps.exif_transpose(image)
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = f"images/{i}.{suffix}"
        image.save(folder / name, exif=exif, **({"quality": 98, "subsampling": 0} if suffix == "jpg" else {}))
        frames.append({"file_path": name, "transform_matrix": pose.tolist()})
    K = camera(0, 0, *size)[1].Ks[0]
    content = {"camera_model": "OPENCV", "fl_x": K[0, 0].item(), "fl_y": K[1, 1].item(), "cx": K[0, 2].item()}
    content |= {"cy": K[1, 2].item(), "w": size[0], "h": size[1], "frames": frames}
    content |= {} if distortion is None else dict(vars(distortion))
    (folder / "transforms.json").write_text(json.dumps({**content, **fields}))
    return folder
