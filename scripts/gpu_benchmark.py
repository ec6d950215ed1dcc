# SPDX-License-Identifier: Apache-2.0
"""Times of the CUDA backend in the two settings that its targets are stated for; a table and JSON (scripts/gpu_check).

A: 2 views of 256², 131,072 Gaussians; B: 8 views of 512², 1,048,576 Gaussians; SH degree 0, about 40 pairs per pixel.
Times are medians over calls between two events on the stream. Bytes are those that a pass has to move (records, slots,
parameters, images), so that achieved bandwidth compares passes, not what the caches did; beside them what the card
copies. Setting A also says what an inner step costs in each of three ways to take it (scripts/tto_steps.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tto_steps import host_work, print_table

from ns_diff3r import DifferentiableTTO, Gaussians, TTOConfig, Views, extension
from ns_diff3r.data.generated import pixel_aligned_scene
from ns_diff3r.rasterization import RasterizationConfig, gsplat
from ns_diff3r.rasterization.cuda import CudaLinearization
from ns_diff3r.solver import ImageLoss, PCGConfig
from ns_diff3r.solver.normal_operator import NormalOperator
from ns_diff3r.solver.pcg import pcg
from ns_diff3r.solver.preconditioners import make_preconditioner

SETTINGS = {"A": (256, 2, 131_072), "B": (512, 8, 1_048_576), "host": (16, 2, 512)}
TARGETS_MS = {
    "A": {"gauss_newton": 0.15, "pcg16": 3.0, "tto50": 60.0},
    "B": {"gauss_newton": 1.8, "pcg16": 30.0},
    "host": {},
}
STEPS_IN = ("A", "host")
"""Settings in which inner steps are taken in all ways (`tto_steps`)."""
RECORD, SLOT = 48, 48  # bytes


class Timer:
    """Medians of calls on one device."""

    def __init__(self, device: str, rounds: int) -> None:
        self.device, self.rounds = device, rounds

    def __call__(self, call: Callable[[], object], rounds: int | None = None) -> float:
        """Milliseconds of one call."""
        rounds = rounds or self.rounds
        if self.device == "cpu":
            begin = time.perf_counter()
            call()
            return 1e3 * (time.perf_counter() - begin)
        for _ in range(3):
            call()
        times = []
        for _ in range(rounds):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        return statistics.median(times)


def ceilings(timer: Timer) -> dict[str, float]:
    """What the card itself reaches: GB/s of a copy, GFLOP/s of a float32 matrix product."""
    size = 1 << (14 if timer.device == "cpu" else 28)
    a = torch.ones(size, device=timer.device)
    b = torch.empty_like(a)
    side = 64 if timer.device == "cpu" else 8192
    m = torch.ones(side, side, device=timer.device)
    return {
        "copy GB/s": 8 * size / timer(lambda: b.copy_(a)) / 1e6,
        "float32 GFLOP/s": 2 * side**3 / timer(lambda: m @ m) / 1e6,
    }


def measure(name: str, timer: Timer) -> dict[str, Any]:
    """All times of one setting."""
    size, views, count = SETTINGS[name]
    device = timer.device
    generator = torch.Generator().manual_seed(1)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    gaussians, cameras = pixel_aligned_scene(size, num_gaussians=count, num_views=views)
    gaussians, cameras = gaussians.to(device=device), cameras.to(device=device)
    config = RasterizationConfig()

    def linearize() -> CudaLinearization:
        return CudaLinearization(gaussians, cameras, config, check_finite=False)

    lin = linearize()
    v, u = gaussians.map(noise), noise(lin.rgb)
    weights = u * u
    target = (lin.rgb + 0.1 * noise(lin.rgb)).clamp(0, 1)
    counts = lin.statistics
    times = {
        "linearize": timer(linearize),
        "render": timer(lambda: lin.render(gaussians)),
        "vjp": timer(lambda: lin.vjp(u)),
        "jvp": timer(lambda: lin.jvp(v)),
        "gauss_newton": timer(lambda: lin.gauss_newton(v, weights)),
        "diagonal": timer(lambda: lin.diagonal(weights)),
        "blocks": timer(lambda: lin.blocks(weights), 5),
        "vjp_tangent": timer(lambda: lin.vjp_tangent(v, u, u)),
        "hessian": timer(lambda: lin.vjp_tangent(v, u, lin.jvp(v))),
    }
    for kind, weight in (("pcg16", 0.0), ("pcg16 ssim", 0.2)):
        curvature = ImageLoss(kind="mse", ssim_weight=weight).linearize(lin.rgb, target).curvature
        flat = torch.full((gaussians.num_parameters,), 1e-3, device=device)
        operator = NormalOperator(lin, curvature, target.numel(), flat)
        rhs = lin.vjp(target - lin.rgb).flatten()
        settings = PCGConfig(preconditioner="jacobi", max_iterations=16, tolerance=1e-30)

        def solve(operator=operator, rhs=rhs, settings=settings) -> object:
            return pcg(operator, rhs, settings, make_preconditioner("jacobi", operator))

        times[kind] = timer(solve, 5)
    steps = host_work(gaussians, cameras, device) if name in STEPS_IN else {}
    if device == "cuda":
        times |= layer_times(gaussians, Views(target, cameras), timer)
        times |= gsplat_times(gaussians, cameras, u, timer)
    records, intersections, pixels = counts["records"], counts["intersections"], target.numel() // 3
    product_bytes = (
        2 * 56 * count + records * (4 * RECORD) + intersections * (2 * SLOT + 2 * (8 + RECORD) + 4) + 32 * pixels
    )
    return {
        "setting": name,
        "views": f"{views} x {size}²",
        "Gaussians": count,
        **counts,
        "entries per Gaussian and view": intersections / max(1, records),
        "times ms": times,
        "targets ms": TARGETS_MS[name],
        "an inner step": steps,
        "product GB": product_bytes / 1e9,
        "product GB/s": product_bytes / times["gauss_newton"] / 1e6,
        "product / vjp": times["gauss_newton"] / times["vjp"],
        "hessian / vjp": times["hessian"] / times["vjp"],
        "3DGS-LM cache GB": (12 * 40 * pixels + 228 * records) / 1e9,
        "plan GB": counts["bytes"] / 1e9,
    }


def layer_times(gaussians: Gaussians, views: Views, timer: Timer) -> dict[str, float]:
    """50 Adam steps of TTO, and the layer's backward pass with 16 PCG iterations."""
    layer = DifferentiableTTO(
        TTOConfig(num_steps=50, pcg=PCGConfig(preconditioner="jacobi", max_iterations=16, tolerance=1e-9))
    )

    def forward() -> object:
        with torch.no_grad():
            return layer(gaussians, 1.0, views)

    def both() -> None:
        start = gaussians.detach().map(torch.clone).requires_grad_()
        result, _ = layer(start, 1.0, views)
        torch.stack([leaf.sum() for leaf in result.leaves()]).sum().backward()

    times = {"tto50": timer(forward, 3)}
    times["layer backward"] = timer(both, 3) - times["tto50"]
    return times


def gsplat_times(gaussians: Gaussians, cameras: Any, u: torch.Tensor, timer: Timer) -> dict[str, float]:
    """One forward and backward of gsplat on the same views, where it is installed and builds."""
    version = gsplat.installed_version()
    if version not in gsplat.VERSIONS or (rasterization := gsplat.load()) is None:
        return {}
    leaves = gaussians.detach().map(torch.clone).requires_grad_()

    def both() -> None:
        rendering = gsplat.render_gsplat(leaves, cameras, RasterizationConfig(), None, rasterization)
        torch.autograd.grad((rendering.rgb * u).sum(), leaves.leaves(), allow_unused=True)

    return {f"gsplat {version} forward + backward": timer(both)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--settings", nargs="*")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    timer = Timer(arguments.device, arguments.rounds)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else "host-executed kernels",
        "kernels": extension.describe(),
        "torch": torch.__version__,
        "ceilings": ceilings(timer),
        "settings": [],
    }
    print(report["kernels"])
    print({name: round(value, 1) for name, value in report["ceilings"].items()})
    for name in arguments.settings or (["A", "B"] if arguments.device == "cuda" else ["host"]):
        row = measure(name, timer)
        report["settings"].append(row)
        print(f"\n{name}: {row['views']}, {row['Gaussians']} Gaussians, {row['intersections']} entries")
        for key, value in row["times ms"].items():
            target = row["targets ms"].get(key)
            print(f"  {key:<32} {value:10.3f} ms" + (f"   target {target} ms" if target else ""))
        for key in ("product GB", "product GB/s", "product / vjp", "hessian / vjp", "3DGS-LM cache GB", "plan GB"):
            print(f"  {key:<32} {row[key]:10.4g}")
        if row["an inner step"]:
            print("  an inner step, by way of taking it:")
            print_table(row["an inner step"])
        if arguments.json:
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
