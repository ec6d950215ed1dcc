# SPDX-License-Identifier: Apache-2.0
"""The problems that scripts/gpu_benchmark.py times, and its clock."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from gpu_costs import Work

from ns_diff3r import Cameras, Gaussians
from ns_diff3r.data.generated import pixel_aligned_scene
from ns_diff3r.rasterization import RasterizationConfig
from ns_diff3r.rasterization.cuda import CudaLinearization
from ns_diff3r.rasterization.native import NativeLinearization
from ns_diff3r.solver import ImageLoss, PCGConfig
from ns_diff3r.solver.normal_operator import NormalOperator
from ns_diff3r.solver.pcg import pcg
from ns_diff3r.solver.preconditioners import make_preconditioner

SETTINGS = {"A": (256, 2, 131_072), "B": (512, 8, 1_048_576), "small": (8, 2, 64)}
"""Image side, views and Gaussians."""


class Timer:
    """Medians over rounds of calls between two events."""

    def __init__(self, rounds: int, calls: int) -> None:
        self.rounds, self.calls = rounds, calls

    def __call__(self, call: Callable[[], object], rounds: int = 0, calls: int = 0) -> float:
        """Milliseconds of one of several calls that follow one another."""
        calls = calls or self.calls
        for _ in range(min(3, self.rounds)):
            call()
        times = []
        for _ in range(rounds or self.rounds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            for _ in range(calls):
                call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / calls)
        return statistics.median(times)

    def alone(self, call: Callable[[], object]) -> float:
        """Milliseconds of a call that finds the device idle."""
        return self(call, calls=1)


class Problem:
    """One setting on the device."""

    def __init__(self, name: str) -> None:
        size, views, count = SETTINGS[name]
        self.generator = torch.Generator().manual_seed(1)
        self.here, self.cameras_here = pixel_aligned_scene(size, num_gaussians=count, num_views=views)
        self.gaussians: Gaussians = self.here.to(device="cuda")
        self.cameras: Cameras = self.cameras_here.to(device="cuda")
        self.config = RasterizationConfig()
        self.lin = self.linearize()
        self.v = self.gaussians.map(self.noise)
        self.u = self.noise(self.lin.rgb)
        self.weights = self.u * self.u
        self.target = (self.lin.rgb + 0.1 * self.noise(self.lin.rgb)).clamp(0, 1)

    def noise(self, like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=self.generator).to(like)

    def linearize(self) -> CudaLinearization:
        return CudaLinearization(self.gaussians, self.cameras, self.config, check_finite=False)

    def work(self) -> Work:
        """Sizes; the number of contributing pairs, which the device does not list, from the CPU's kernels."""
        counts = self.lin.statistics
        pairs = NativeLinearization(self.here, self.cameras_here, self.config).statistics["pairs"]
        n = self.here.num_gaussians
        return Work(
            n,
            self.here.num_parameters // n,
            counts["records"],
            counts["intersections"],
            16 * counts["candidates"],
            pairs,
            self.target.numel() // 3,
        )

    def solver(self, ssim_weight: float) -> Callable[[], object]:
        """16 iterations with their preconditioner."""
        curvature = ImageLoss(kind="mse", ssim_weight=ssim_weight).linearize(self.lin.rgb, self.target).curvature
        flat = torch.full((self.gaussians.num_parameters,), 1e-3, device="cuda")
        operator = NormalOperator(self.lin, curvature, self.target.numel(), flat)
        rhs = self.lin.vjp(self.target - self.lin.rgb).flatten()
        settings = PCGConfig(preconditioner="jacobi", max_iterations=16, tolerance=1e-30)
        return lambda: pcg(operator, rhs, settings, make_preconditioner("jacobi", operator))
