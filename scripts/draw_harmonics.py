# SPDX-License-Identifier: Apache-2.0
"""What DepthSplat's basis of spherical harmonics does to an exported .ply: a fitted scene, written with and without M.

Each row is a held-out view: colours evaluated directly in DepthSplat's own basis; the .ply written through M and read
again; the .ply with the same coefficients taken for standard ones; the error of either, four times.

python scripts/draw_harmonics.py [SCENE [FILE]]        default: examples/room, docs/images/harmonics.jpg
"""

import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ns_diff3r import Cameras, DifferentiableTTO, Gaussians, TTOConfig, render
from ns_diff3r.backbones.depthsplat.gaussians import PixelGaussians
from ns_diff3r.backbones.depthsplat.harmonics import standard_from_cycled
from ns_diff3r.cli.scene_options import SceneOptions
from ns_diff3r.evaluation.metrics import psnr
from ns_diff3r.solver import LearningRates
from ns_diff3r.splats.spherical_harmonics import rgb_to_sh0, spherical_harmonics_basis

ROOT = Path(__file__).resolve().parents[1]
STEPS, SIZE, VIEWS = 200, 120, 2


def fitted(scene: Path) -> tuple[Gaussians, Cameras]:
    """Gaussians of degree 2 that depend much on the direction, and held-out cameras."""
    _, start, context, targets = SceneOptions(scene, max_size=SIZE, sh_degree=2).load(torch.float32)
    rates = {name: 8 * rate for name, rate in asdict(LearningRates()).items()}
    rates = LearningRates(**{**rates, "shN": 2e-2})
    with torch.no_grad():
        result, _ = DifferentiableTTO(TTOConfig(num_steps=STEPS, learning_rates=rates)).eval()(start, None, context)
    return result, (targets or context).cameras[:VIEWS]


def own_colours(pixels: PixelGaussians, gaussians: Gaussians, cameras: Cameras) -> Float[Tensor, "V H W 3"]:
    """Drawn with a constant colour a Gaussian and view: Y_3DGS(z, x, y) of the direction from the camera."""
    pictures = []
    for view in range(cameras.num_views):
        directions = torch.nn.functional.normalize(gaussians.means - cameras.centers[view], dim=-1)
        basis = spherical_harmonics_basis(2, directions[:, [2, 0, 1]])
        colours = (0.5 + (basis[:, :, None] * pixels.harmonics).sum(1)).clamp_min(0)
        flat = replace(gaussians, sh0=rgb_to_sh0(colours)[:, None], shN=gaussians.shN[:, :0])
        pictures.append(render(flat, cameras[view : view + 1]).rgb)
    return torch.cat(pictures).clamp(0, 1)


@torch.no_grad()
def main(scene: Path, file: Path) -> None:
    """Write the picture and print how far the two files are off."""
    gaussians, cameras = fitted(scene)
    standard = torch.cat([gaussians.sh0, gaussians.shN], dim=1)
    cycled = torch.einsum("lk,nlc->nkc", standard_from_cycled(2).to(standard), standard)  # M is orthogonal
    quats = torch.nn.functional.normalize(gaussians.quats, dim=-1)
    pixels = PixelGaussians(
        gaussians.means, gaussians.scales.exp(), quats, quats, gaussians.opacities.sigmoid(), cycled
    )
    columns = [own_colours(pixels, gaussians, cameras)]
    with tempfile.TemporaryDirectory() as folder:
        for exported in (pixels.gaussians(), replace(gaussians, sh0=cycled[:, :1], shN=cycled[:, 1:])):
            exported.save_ply(Path(folder) / "scene.ply")
            columns.append(render(Gaussians.load_ply(Path(folder) / "scene.ply"), cameras).rgb.clamp(0, 1))
    for name, picture in zip(("through M", "without M"), columns[1:], strict=True):
        print(f"{name}: PSNR {float(psnr(picture, columns[0])):.1f} dB against the model's own basis")
    columns += [(4 * (picture - columns[0]).abs()).clamp(0, 1) for picture in columns[1:3]]
    rows = [torch.cat([column[view] for column in columns], dim=1) for view in range(cameras.num_views)]
    pixels_8bit = np.rint(torch.cat(rows).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels_8bit).save(file, quality=85)
    print(f"{file}: {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*(given + [ROOT / "examples" / "room", ROOT / "docs" / "images" / "harmonics.jpg"][len(given) :]))
