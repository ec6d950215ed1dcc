# SPDX-License-Identifier: Apache-2.0
"""Every CUDA kernel once on a small scene, for compute-sanitizer (scripts/gpu_check)."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

import torch
from tto_steps import replaced

from ns_diff3r import DifferentiableTTO, TTOConfig, Views
from ns_diff3r.data.generated import pixel_aligned_scene
from ns_diff3r.rasterization import RasterizationConfig
from ns_diff3r.rasterization.cuda import CudaLinearization
from ns_diff3r.solver import cuda_ops
from ns_diff3r.solver.backward import BackwardMode
from ns_diff3r.solver.inner import device_run


def run(steps: int, size: int) -> None:
    """Render, all products, a frozen point, SSIM, losses, steps, and a TTO with its backward pass."""
    device = "cuda"
    generator = torch.Generator().manual_seed(0)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    gaussians, cameras = pixel_aligned_scene(image_size=size, num_views=2, sh_degree=1)
    gaussians, cameras = gaussians.to(device=device), cameras.to(device=device)
    lin = CudaLinearization(gaussians, cameras, RasterizationConfig())
    frozen = CudaLinearization(gaussians, cameras, RasterizationConfig(antialiased=True), freeze="pairs")
    for start in (lin, frozen):
        for point in (start, start.at(gaussians)):
            v, u = gaussians.map(noise), noise(lin.rgb)
            point.jvp(v)
            point.rendering_vjp(u, u[..., :1].contiguous(), u[..., :1].contiguous(), cameras=True)
            point.gauss_newton(v, u * u)
            point.blocks(u * u)
            point.vjp_tangent(v, u, u)
    images = torch.rand(lin.rgb.shape, generator=generator).to(lin.rgb)
    target = (images, *cuda_ops.ssim_target(images))
    values, _, partials = cuda_ops.ssim_value(lin.rgb, target)
    cuda_ops.ssim_vjp(lin.rgb, images, partials, values, 1.0, None)
    cuda_ops.ssim_partials_jvp(lin.rgb, target, images)
    cuda_ops.pixel_loss(0, lin.rgb, images, 0.1, 1.0, None)
    for mode in ("implicit", "adjoint"):
        initial = gaussians.map(torch.clone).requires_grad_()
        layer = DifferentiableTTO(TTOConfig(num_steps=steps, backward_mode=BackwardMode(mode)))
        result, _ = layer(initial, 1.0, Views(images, cameras))
        torch.stack([leaf.square().sum() for leaf in result.leaves()]).sum().backward()
    room = (device_run, "HEADROOM", 1.0), (device_run, "SPARE", 0)
    with replaced(*room), torch.no_grad():  # Gaussians that grow find no room in later steps
        DifferentiableTTO(TTOConfig(num_steps=steps))(gaussians, 1.0, Views(images, cameras))
    print("every kernel ran")


def main() -> None:
    """On a device, where steps are recorded as graphs and replayed, or a few of them on a pretended one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "pretended"])
    place: Any = nullcontext()
    steps, size = device_run.RECORD_FROM, 24
    if parser.parse_args().device == "pretended":
        from tests.cuda.pretend_device import pretended

        place, steps, size = pretended(), 2, 8
    with place:
        run(steps, size)


if __name__ == "__main__":
    main()
