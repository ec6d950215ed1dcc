# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a training step through TTO, each measured in a process of its own.

Run as `python -m ns_diff3r.cli.benchmark_memory KIND STEPS SIZE GAUSSIANS`, it prints one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from ..splats import Gaussians, Views

GIVE_BACK_FREED = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""glibc's malloc returns freed blocks to the system, so that resident memory is what is in use."""

Kind = Literal["implicit", "adjoint", "recomputation", "unroll"]


def memory_in_subprocess(kind: Kind, steps: int, image_size: int, num_gaussians: int) -> dict[str, Any]:
    """`measure_memory` in a fresh process; RuntimeError with its last words if it fails."""
    command = [
        sys.executable,
        "-m",
        "ns_diff3r.cli.benchmark_memory",
        kind,
        str(steps),
        str(image_size),
        str(num_gaussians),
    ]
    # Where this package lies, so that the child imports the same one whatever the current folder holds.
    home = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=home, env={**os.environ, **GIVE_BACK_FREED}
    )
    if done.returncode:
        raise RuntimeError(f"the measurement of {kind} with {steps} steps failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(kind: Kind, steps: int, image_size: int, num_gaussians: int) -> dict[str, Any]:
    """Peaks of resident memory, in bytes above what was resident before, of the forward and of the backward pass.

    "implicit" is the layer, "adjoint" with the steps kept, "recomputation" with the steps taken again.
    "unroll" is autograd through every step of gradient descent on the reference renderer,
    since the native one has no double backward.
    """
    import torch

    from ..data.generated import pixel_aligned_scene
    from ..rasterization import render
    from ..splats import Views
    from .measure import reset_peak, resident_bytes

    torch.set_num_threads(1)
    truth, cameras = pixel_aligned_scene(image_size, num_gaussians=num_gaussians)
    generator = torch.Generator().manual_seed(0)
    start = truth.map(lambda leaf: (leaf + 0.02 * torch.randn(leaf.shape, generator=generator)).requires_grad_())
    strength = torch.tensor(1.0, requires_grad=True)
    with torch.no_grad():
        views = Views(render(truth, cameras).rgb.clamp(0, 1), cameras)
    before, _ = resident_bytes()
    reset_peak()
    loss = _unrolled(start, strength, views, steps) if kind == "unroll" else _layer(kind, start, strength, views, steps)
    held, forward = resident_bytes()
    reset_peak()
    loss.backward()
    _, backward = resident_bytes()
    sizes = {"forward": forward - before, "held for backward": held - before, "backward": backward - before}
    return {"kind": kind, "steps": steps, "size": image_size, "Gaussians": num_gaussians, **sizes}


def _layer(kind: Kind, start: Gaussians, strength: Tensor, views: Views, steps: int) -> Tensor:
    from ..rasterization import render
    from ..solver import BackwardConfig, BackwardMode, DifferentiableTTO, PCGConfig, TTOConfig

    config = TTOConfig(
        num_steps=steps,
        pcg=PCGConfig(max_iterations=20),
        backward_mode=BackwardMode.IMPLICIT if kind == "implicit" else BackwardMode.ADJOINT,
        backward=BackwardConfig(trajectory="recomputation" if kind == "recomputation" else "snapshots"),
    )
    result, _ = DifferentiableTTO(config)(start, strength, views)
    return (render(result, views.cameras).rgb - views.images).square().mean()


def _unrolled(start: Gaussians, strength: Tensor, views: Views, steps: int) -> Tensor:
    import torch

    from ..rasterization import render
    from ..splats import Gaussians

    theta = start
    for _ in range(steps):
        loss = (render(theta, views.cameras, backend="reference").rgb - views.images).square().mean()
        for leaf, anchor in zip(theta.leaves(), start.leaves(), strict=True):
            loss = loss + 1e-6 * strength * (leaf - anchor).square().sum()
        gradients = torch.autograd.grad(loss, theta.leaves(), create_graph=True, allow_unused=True)
        leaves = zip(theta.leaves(), gradients, strict=True)
        theta = Gaussians(*(leaf if g is None else leaf - 1e-2 * g for leaf, g in leaves))
    return (render(theta, views.cameras, backend="reference").rgb - views.images).square().mean()


if __name__ == "__main__":
    print(json.dumps(measure_memory(sys.argv[1], *map(int, sys.argv[2:5]))))  # pyright: ignore[reportArgumentType]
