# SPDX-License-Identifier: Apache-2.0
"""What an inner step costs the host: kernel launches, torch operations, allocations, waits for the device, and time.

Three ways to take the same steps, to the bit: "steps" asks the host for every step (the loop that every optimiser can
use), "kernels" launches a whole run from one compiled call, "graph" records its step as a CUDA graph. Numbers are
differences of a long and a short run, a step; what a run costs once stands beside them.

    python scripts/tto_steps.py --device cpu      # counts; the kernels are executed on the host
    python scripts/tto_steps.py                   # waits as torch reports them, and milliseconds

Without a device the kernels' own time is taken off, and what is left is Python's and torch's.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ns_diff3r import Cameras, Gaussians, extension, linearize, render
from ns_diff3r.data.generated import pixel_aligned_scene
from ns_diff3r.rasterization.cuda import CudaLinearization
from ns_diff3r.solver import ImageLoss, TTOConfig, penalties, ssim, vector_ops
from ns_diff3r.solver.inner import device_run, run_trajectory
from ns_diff3r.solver.inner.device_run import DeviceRun
from ns_diff3r.solver.prior import Prior
from ns_diff3r.solver.problem import SceneProblem

WAYS = ("steps", "kernels", "graph")
SHORT, LONG = 16, 48
"""Steps of the two runs; multiples of those between two looks, so that their difference has whole looks."""


@contextmanager
def replaced(*attributes: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes (object, name, value) in the place of what is there."""
    old = [(owner, name, getattr(owner, name)) for owner, name, _ in attributes]
    for owner, name, value in attributes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in old:
            setattr(owner, name, value)


@contextmanager
def by_cuda_kernels(device: str) -> Iterator[None]:
    """On the CPU too the CUDA backend draws and measures, on its host-executed kernels."""
    if device != "cpu":
        yield
        return
    entry = sys.modules[render.__module__]
    modules = (vector_ops, penalties, ssim)
    with replaced(
        (entry, "_native", lambda gaussians: CudaLinearization),
        *((module, "is_native", lambda tensor: False) for module in modules),
        *((module, "usable", lambda tensor: True) for module in (*modules, device_run)),
    ):
        yield


@contextmanager
def way_of(name: str) -> Iterator[None]:
    """Runs are taken so."""
    never = (device_run, "applies", lambda *arguments: False)
    with replaced(
        (device_run, "RECORD_FROM", 0 if name == "graph" else math.inf), *([never] if name == "steps" else [])
    ):
        yield


def make_run(gaussians: Gaussians, cameras: Cameras, device: str) -> Callable[[int], object]:
    """Test-time optimisation with a prior and the default settings, as a function of the number of steps."""
    gaussians, cameras = gaussians.to(device=device), cameras.to(device=device)
    random = torch.Generator().manual_seed(0)
    images = torch.rand(cameras.num_views, cameras.height, cameras.width, 3, generator=random).to(device)
    objective = ImageLoss().against(images)
    problem = SceneProblem(objective, lambda point: linearize(point, cameras, check_finite=False))
    start = gaussians.flatten()
    prior = Prior(start, torch.full_like(start, 1e-3), [1.0] * 6, gaussians.group_slices())
    optimizer = TTOConfig().make_optimizer()
    return lambda steps: run_trajectory(problem, gaussians, optimizer, steps, prior)


class Operations(TorchDispatchMode):
    """Counts torch's operations, those that allocate, and those that read a number."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = {"torch operations": 0, "allocations": 0, "waits": 0}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and do it."""
        returns = func._schema.returns
        self.counts["torch operations"] += 1
        self.counts["allocations"] += bool(returns) and all(r.alias_info is None for r in returns)
        self.counts["waits"] += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def counts_of(call: Callable[[], object]) -> dict[str, float]:
    """On the host-executed kernels."""
    kernels, operations = extension.cuda_host(), Operations()

    def waiting(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            result = function(*arguments)
            operations.counts["waits"] += 1
            return result

        return counted

    before = kernels.launches()
    readers = ((vector_ops, "_statistics"), (DeviceRun, "_look"))
    with replaced(*((owner, name, waiting(getattr(owner, name))) for owner, name in readers)), operations:
        call()
    launches = kernels.launches() - before
    kernels.kernel_seconds()
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        call()
        seconds.append(time.process_time() - begin - kernels.kernel_seconds())
    return {"kernels": launches, **operations.counts, "host ms": 1e3 * min(seconds)}


def device_counts_of(call: Callable[[], object]) -> dict[str, float]:
    """On a device: waits as torch finds them, and milliseconds until all is done."""
    call()
    torch.cuda.synchronize()
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    waits = sum("synchronizing" in str(warning.message) for warning in caught)
    return {"waits": waits, "ms": 1e3 * sorted(times)[2]}


def host_work(gaussians: Gaussians, cameras: Cameras, device: str) -> dict[str, dict[str, float]]:
    """By way of taking steps: what a step costs, and (once) what a run does."""
    count = counts_of if device == "cpu" else device_counts_of
    result = {}
    with by_cuda_kernels(device):
        run = make_run(gaussians, cameras, device)
        run(1)
        for way in WAYS[:2] if device == "cpu" else WAYS:
            with way_of(way):
                short, long = (count(lambda steps=steps: run(steps)) for steps in (SHORT, LONG))
            step = {name: (long[name] - short[name]) / (LONG - SHORT) for name in long}
            result[way] = step | {f"{name} once": short[name] - SHORT * step[name] for name in short}
    return result


def print_table(result: dict[str, dict[str, float]]) -> None:
    """One column a way."""
    print(f"{'':<24}" + "".join(f"{way:>12}" for way in result))
    for name in next(iter(result.values())):
        print(f"{name:<24}" + "".join(f"{row[name]:>12.3f}" for row in result.values()))


def main() -> None:
    """Count, print, and say it as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--size", type=int, help="pixels a side; default 16, on a device 256")
    arguments = parser.parse_args()
    size = arguments.size or (16 if arguments.device == "cpu" else 256)
    gaussians, cameras = pixel_aligned_scene(size, num_gaussians=2 * size * size, num_views=2)
    result = host_work(gaussians, cameras, arguments.device)
    print_table(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
