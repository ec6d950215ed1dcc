# SPDX-License-Identifier: Apache-2.0
"""Time by kernel of a Gauss-Newton product, an exact Hessian product, a solve, and steps of TTO (scripts/gpu_check).

python scripts/gpu_profile.py --json out.json       torch's profiler: microseconds and calls of every kernel
ncu … python scripts/gpu_profile.py --once          every pass once, in setting B, to be looked at from outside
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from gpu_problem import Problem
from torch.profiler import ProfilerActivity

from ns_diff3r import DifferentiableTTO, TTOConfig, Views

KERNEL = re.compile(r"run_kernel<(?:ns_diff3r::cuda::)?(?:\(anonymous namespace\)::)?(.*?)>\s*\(")


def workloads(name: str) -> dict[str, Callable[[], object]]:
    """What is looked at in one setting."""
    problem = Problem(name)
    views = Views(problem.target, problem.cameras)
    layer = DifferentiableTTO(TTOConfig(num_steps=4 if name == "small" else 50))

    @torch.no_grad()
    def steps() -> object:
        return layer(problem.gaussians, 1.0, views)

    lin, v, u = problem.lin, problem.v, problem.u
    calls = {
        "linearize": problem.linearize,
        "gauss_newton": lambda: lin.gauss_newton(v, problem.weights),
        "hessian": lambda: lin.vjp_tangent(v, u, lin.jvp(v)),
        "pcg16": problem.solver(0.0),
    }
    return calls | ({} if name == "B" else {"tto": steps})


def by_kernel(call: Callable[[], object], on_device: bool) -> list[dict[str, Any]]:
    """Calls and microseconds of every kernel, longest first."""
    call()
    activities = [ProfilerActivity.CUDA] if on_device else [ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        call()
        torch.cuda.synchronize()
    rows = []
    for event in profiler.key_averages():
        total = getattr(event, "self_device_time_total", getattr(event, "self_cuda_time_total", 0.0))
        if total or not on_device:
            match = KERNEL.search(event.key)
            rows.append({"kernel": match[1] if match else event.key[:70], "calls": event.count, "us": total})
    return sorted(rows, key=lambda row: -row["us"])[:25]


def main() -> None:
    """Print and write a table a workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "pretended"])
    parser.add_argument("--once", action="store_true", help="only run every pass of setting B")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    place: Any = nullcontext()
    if arguments.device == "pretended":
        from tests.cuda.pretend_device import pretended

        place = pretended()
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
    with place:
        if arguments.once:
            for call in workloads("B").values():
                call()
            return
        report: dict[str, Any] = {}
        for name in ("A", "B") if arguments.device == "cuda" else ("small",):
            for what, call in workloads(name).items():
                rows = by_kernel(call, arguments.device == "cuda")
                report[f"{name} {what}"] = rows
                total = sum(row["us"] for row in rows)
                print(f"\n{name} {what}: {total:.0f} us in kernels")
                for row in rows:
                    print(f"  {row['us']:12.1f} us {row['calls']:6d}  {row['kernel']}")
                if arguments.json:
                    arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
