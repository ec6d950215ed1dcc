# SPDX-License-Identifier: Apache-2.0
"""Times of the CUDA backend against the targets that are stated for it; tables and JSON (scripts/gpu_check).

A: 2 views of 256², 131,072 Gaussians; B: 8 views of 512², 1,048,576 Gaussians; SH degree 0, about 40 pairs per pixel.
"ms" is the time of one of several calls one behind the other, between two events on the stream; "alone" that of a call
that finds the device idle. Medians. Beside them bytes and operations per second by the model of gpu_costs.py, as shares
of what the card copies and multiplies. Pieces are independent: one that fails is named, and the next one begins.

    python scripts/gpu_benchmark.py --json out.json               all pieces, on a device
    python scripts/gpu_benchmark.py --device pretended            small, on the host-executed kernels: does it run?
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_costs import cache_of_3dgs_lm, ceilings, costs
from gpu_problem import Problem, Timer
from tto_steps import host_work, print_table

from ns_diff3r import DifferentiableTTO, TTOConfig, Views, extension
from ns_diff3r.rasterization import gsplat
from ns_diff3r.solver import PCGConfig

PIECES = ("A", "A inner steps", "A layer", "A gsplat", "B", "B gsplat", "training")
SMALL_PIECES = tuple(piece.replace("A", "small") for piece in PIECES if not piece.startswith("B"))

TARGETS = {
    "A": {"gauss_newton ms": 0.15, "pcg16 ms": 3.0, "hessian / vjp": 4.0},
    "B": {"gauss_newton ms": 1.8, "pcg16 ms": 30.0, "hessian / vjp": 4.0},
    "A layer": {"tto50 ms": 60.0, "backward / tto50": 0.1},
    "A gsplat": {"gauss_newton / gsplat": 1.0},
    "B gsplat": {"gauss_newton / gsplat": 1.0},
    "training": {"bilevel / plain": 2.0},
}
"""Figure → at most so much, on an H200."""


def passes(problem: Problem) -> dict[str, Callable[[], object]]:
    """What is timed in a setting."""
    lin, v, u, weights = problem.lin, problem.v, problem.u, problem.weights
    return {
        "linearize": problem.linearize,
        "render": lambda: lin.render(problem.gaussians),
        "jvp": lambda: lin.jvp(v),
        "vjp": lambda: lin.vjp(u),
        "gauss_newton": lambda: lin.gauss_newton(v, weights),
        "vjp_tangent": lambda: lin.vjp_tangent(v, u, u),
        "hessian": lambda: lin.vjp_tangent(v, u, lin.jvp(v)),
        "diagonal": lambda: lin.diagonal(weights),
        "blocks": lambda: lin.blocks(weights),
        "pcg16": problem.solver(0.0),
        "pcg16 ssim": problem.solver(0.2),
    }


def peak_gb(call: Callable[[], object]) -> float:
    """GB that a call needs beyond what is held."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def measure_setting(name: str, timer: Timer, limits: dict[str, float]) -> dict[str, Any]:
    """All passes of one setting."""
    problem = Problem(name)
    work = problem.work()
    calls = passes(problem)
    alone = {key: timer.alone(call) for key, call in calls.items()}
    times = {key: timer(call, calls=1 if alone[key] > 5.0 else 0) for key, call in calls.items()}
    rates = {}
    for key, cost in costs(work).items():
        seconds = times[key] / 1e3
        rates[key] = {
            "GB": cost.bytes / 1e9,
            "GB/s": cost.bytes / seconds / 1e9,
            "of copy %": 100 * cost.bytes / seconds / 1e9 / limits["copy GB/s"],
            "GFLOP": cost.operations / 1e9,
            "GFLOP/s": cost.operations / seconds / 1e9,
            "of multiply %": 100 * cost.operations / seconds / 1e9 / limits["float32 GFLOP/s"],
        }
    memory = {"plan GB": problem.lin.statistics["bytes"] / 1e9, "solve GB": peak_gb(calls["pcg16"])}
    return {
        **work._asdict(),
        "pairs per pixel": work.pairs / work.pixels,
        "busy lanes": work.pairs / max(1, work.lanes),
        "ms": times,
        "alone ms": alone,
        "rates": rates,
        "memory": memory | {f"3DGS-LM {key}": value for key, value in cache_of_3dgs_lm(work).items()},
        "figures": {f"{key} ms": value for key, value in times.items()}
        | {
            "gauss_newton / vjp": times["gauss_newton"] / times["vjp"],
            "hessian / vjp": times["hessian"] / times["vjp"],
        },
    }


def measure_layer(name: str, timer: Timer) -> dict[str, Any]:
    """50 Adam steps of TTO, and the layer's backward pass with 16 PCG iterations."""
    problem = Problem(name)
    views = Views(problem.target, problem.cameras)
    settings = PCGConfig(preconditioner="jacobi", max_iterations=16, tolerance=1e-30)
    layer = DifferentiableTTO(TTOConfig(num_steps=50, pcg=settings))

    @torch.no_grad()
    def forward() -> object:
        return layer(problem.gaussians, 1.0, views)

    def backward() -> float:
        start = problem.gaussians.detach().map(torch.clone).requires_grad_()
        result, _ = layer(start, 1.0, views)
        loss = torch.stack([leaf.sum() for leaf in result.leaves()]).sum()
        torch.cuda.synchronize()
        begin = time.perf_counter()
        loss.backward()
        torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - begin)

    backward()
    forward_ms = timer(forward, rounds=5, calls=1)
    backward_ms = statistics.median(backward() for _ in range(5))
    return {
        "figures": {
            "tto50 ms": forward_ms,
            "backward ms": backward_ms,
            "backward / tto50": backward_ms / forward_ms,
        }
    }


def measure_gsplat(name: str, timer: Timer) -> dict[str, Any]:
    """One forward and backward of gsplat on the same views, and a Gauss-Newton product, in turn."""
    version = gsplat.installed_version()
    if version not in gsplat.VERSIONS:
        return {"left out": f"gsplat 1.4.0 or 1.5.3 is not installed (found: {version})"}
    if (rasterization := gsplat.load()) is None:
        return {"left out": f"gsplat {version} does not build or run here (the warning above says why)"}
    problem = Problem(name)
    leaves = problem.gaussians.detach().map(torch.clone).requires_grad_()

    def both() -> None:
        rendering = gsplat.render_gsplat(leaves, problem.cameras, problem.config, None, rasterization)
        torch.autograd.grad((rendering.rgb * problem.u).sum(), leaves.leaves(), allow_unused=True)

    def product() -> object:
        return problem.lin.gauss_newton(problem.v, problem.weights)

    rounds = [(timer(product, rounds=3), timer(both, rounds=3)) for _ in range(5)]
    ours, theirs = (statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    return {"figures": {"gauss_newton ms": ours, f"gsplat {version} ms": theirs, "gauss_newton / gsplat": ratio}}


def measure_training(small: bool) -> dict[str, Any]:
    """A training step through TTO against a plain one."""
    from ns_diff3r.backbones import CompactConfig
    from ns_diff3r.backbones.depthsplat.backbone import DepthSplatConfig
    from ns_diff3r.cli.benchmark_training import training_step_times

    backbone = CompactConfig() if small else DepthSplatConfig(size="small")
    steps, iterations, size, rounds = (2, 2, 16, 2) if small else (50, 16, 256, 7)
    row = training_step_times(size, steps, iterations, rounds, backbone, device="cuda")
    return {**row, "figures": {"bilevel / plain": row["ratio"], "plain ms": row["plain ms"]}}


def measure(piece: str, timer: Timer, limits: dict[str, float]) -> dict[str, Any]:
    """One piece by its name."""
    name, _, what = piece.partition(" ")
    if piece == "training":
        return measure_training(timer.rounds == 1)
    if what == "layer":
        return measure_layer(name, timer)
    if what == "gsplat":
        return measure_gsplat(name, timer)
    if what == "inner steps":
        problem = Problem(name)
        return {"ways": host_work(problem.gaussians, problem.cameras, "cuda")}
    return measure_setting(name, timer, limits)


def judged(piece: str, row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures that have a target."""
    figures = row.get("figures", {})
    return {
        key: {"value": figures[key], "at most": most, "met": figures[key] <= most}
        for key, most in TARGETS.get(piece, {}).items()
        if key in figures
    }


def show(piece: str, row: dict[str, Any]) -> None:
    """A table."""
    print(f"\n{piece}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, (int, float))))
    if "left out" in row or "error" in row:
        print("  " + row.get("left out", row.get("error", "")))
    if "ways" in row:
        print_table(row["ways"])
    for key, value in row.get("ms", {}).items():
        rate = row["rates"].get(key)
        shares = (
            "" if rate is None else f"{rate['of copy %']:8.1f} % of copy {rate['of multiply %']:7.1f} % of multiply"
        )
        print(f"  {key:<24}{value:10.4f} ms {row['alone ms'][key]:10.4f} alone {shares}")
    for key, value in row.get("memory", {}).items():
        print(f"  {key:<24}{value:10.4f}")
    for key, value in row.get("figures", {}).items():
        if key in row.get("targets", {}):
            entry = row["targets"][key]
            print(f"  {key:<24}{value:10.4f}    target {entry['at most']}: {'met' if entry['met'] else 'MISSED'}")
        elif "ms" not in row:
            print(f"  {key:<24}{value:10.4f}")


def run(pieces: list[str], timer: Timer, path: Path | None, small: bool) -> int:
    """Measure, print, and write after every piece."""
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "kernels": extension.describe(),
        "torch": torch.__version__,
        "ceilings": ceilings(timer, "cuda", small),
        "pieces": {},
    }
    print(report["kernels"])
    print({name: round(value, 1) for name, value in report["ceilings"].items()})
    failed = []
    for piece in pieces:
        begin = time.perf_counter()
        try:
            row = measure(piece, timer, report["ceilings"])
            row["targets"] = {} if small else judged(piece, row)
        except Exception as error:  # the next piece may work
            traceback.print_exc()
            row = dict[str, Any](error=f"{type(error).__name__}: {error}")
            failed.append(piece)
        row["seconds"] = time.perf_counter() - begin
        report["pieces"][piece] = row
        show(piece, row)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(report, indent=1) + "\n")
    if failed:
        print("\nfailed: " + ", ".join(failed))
    return 1 if failed else 0


def main() -> int:
    """Status 1 if a piece failed; a missed target is no failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "pretended"])
    parser.add_argument("--pieces", nargs="*", help=f"of {', '.join(map(repr, PIECES))}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda":
        return run(arguments.pieces or list(PIECES), Timer(arguments.rounds, 10), arguments.json, False)
    from tests.cuda.pretend_device import pretended

    with pretended():
        return run(arguments.pieces or list(SMALL_PIECES), Timer(1, 1), arguments.json, True)


if __name__ == "__main__":
    raise SystemExit(main())
