# SPDX-License-Identifier: Apache-2.0
"""Views as the official evaluations of feed-forward splatting take them: Lanczos on 8 bit, then the centre.

Training averages areas (`Scene.views`); the released programs (pixelSplat and its successors) resample with Pillow's
Lanczos filter, to the smallest size that covers the result, and cut out the middle. Pictures differ by little, but by
more than the methods that are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..splats import Cameras, Views
from .errors import SceneError
from .frames import Frame
from .orientations import turned_intrinsics
from .resampling import Resampling
from .scenes import Scene


def official_views(
    scene: Scene,
    indices: Sequence[int],
    size: tuple[int, int],
    near: float | None = None,
    far: float | None = None,
    undistort: bool = True,
) -> Views:
    """Frames of a scene at exactly `size` (height, width), float32.

    Args:
        scene: upright, posed photographs.
        indices: which frames.
        size: of the result.
        near, far: smallest and largest depth, world units; None: from the scene's points or cameras, where they tell.
        undistort: take pictures as a pinhole camera would have; False: as they were photographed, with the pinhole part
            of their intrinsics.

    Raises:
        SceneError: an index out of range, or photographs smaller than `size` (they are not enlarged).
        ImageError: a file that cannot be read.
    """
    for index in indices:
        if not 0 <= index < scene.num_frames:
            raise SceneError(f"{scene.path}: there is no view {index}, the scene has {scene.num_frames}")
    frames = [scene.frames[index] if undistort else as_photographed(scene.frames[index]) for index in indices]
    images, Ks = zip(*(official_crop(frame, size) for frame in frames), strict=True)
    poses = torch.from_numpy(np.stack([frame.camera_to_world for frame in frames]))
    cameras = Cameras.from_camera_to_world_opengl(poses, torch.stack(Ks), size[1], size[0]).to(dtype=torch.float32)
    bounds = []
    known = scene.depth_range if near is None or far is None else None
    for bound, own in zip((near, far), known or (None, None), strict=True):
        values = np.full(len(frames), bound) if bound is not None else None if own is None else own[list(indices)]
        bounds.append(None if values is None else torch.from_numpy(values).float())
    return Views(torch.stack(images), cameras, *bounds)


def official_crop(frame: Frame, size: tuple[int, int]) -> tuple[Float[Tensor, "H W 3"], Float[Tensor, "3 3"]]:
    """A photograph at `size` (height, width), and its intrinsics in pixels.

    The middle of the photograph stays the middle, as in the official code, where the crop is half a pixel off for an
    odd number of pixels to cut.

    Raises:
        SceneError: the photograph is smaller than `size`.
        ImageError: it cannot be read.
    """
    from PIL import Image

    k, (height, width) = frame.intrinsics, size
    if k.height < height or k.width < width:
        raise SceneError(
            f"{frame.image_path}: {k.width}x{k.height} is smaller than the {width}x{height} asked for; images are not "
            "enlarged"
        )
    factor = max(height / k.height, width / k.width)
    scaled_height, scaled_width = round(k.height * factor), round(k.width * factor)
    picture = frame.image(Resampling(0.0, 0.0, k.width, k.height, k.width, k.height))
    stored = Image.fromarray((picture * 255).round().to(torch.uint8).numpy())
    pixels = np.asarray(stored.resize((scaled_width, scaled_height), Image.Resampling.LANCZOS))
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    across, down = scaled_width / k.width, scaled_height / k.height
    cx, cy = width / 2 + (k.cx - k.width / 2) * across, height / 2 + (k.cy - k.height / 2) * down
    K = torch.tensor([[k.fx * across, 0, cx], [0, k.fy * down, cy], [0, 0, 1]], dtype=torch.float64)
    return torch.from_numpy(pixels[top : top + height, left : left + width] / np.float32(255)), K


def as_photographed(frame: Frame) -> Frame:
    """The photograph with its distortion left in; focal lengths and principal point are those of its lens."""
    lens = frame.development.lens
    if lens is None:
        return frame
    development = replace(frame.development, lens=None)
    return replace(frame, development=development, intrinsics=turned_intrinsics(lens.intrinsics, development.after))
