# SPDX-License-Identifier: Apache-2.0
"""Peak memory and seconds per forward pass of the official networks against the number of views, as a table.

Random weights, float32, no gradients. Every row is a process of its own; on a CPU the memory is the process's peak
resident size less that before the network was built, on CUDA the allocator's peak.

    python scripts/measure_backbones.py --models depthsplat-small da3-small --views 2 4 8 --size 256
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from ns_diff3r.backbones import DepthAnything3Config, DepthSplatConfig
from ns_diff3r.backbones.protocol import BackboneConfig
from ns_diff3r.splats import Cameras, Views

MODELS: dict[str, BackboneConfig] = {
    **{f"depthsplat-{size}": DepthSplatConfig(size=size) for size in ("small", "base", "large")},
    **{f"depthsplat-{size}-dl3dv": DepthSplatConfig(size=size, recipe="dl3dv") for size in ("small", "base")},
    **{f"da3-{size}": DepthAnything3Config(size=size) for size in ("small", "base", "large", "giant")},
}


def views_of(count: int, size: int, device: str) -> Views:
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = 0.1 * torch.arange(count)
    K = torch.tensor([[size, 0, size / 2], [0, size, size / 2], [0, 0, 1.0]])
    images = torch.rand(count, size, size, 3, generator=torch.Generator().manual_seed(0))
    cameras = Cameras(viewmats, K.repeat(count, 1, 1), size, size)
    return Views(images, cameras, torch.full((count,), 1.0), torch.full((count,), 50.0)).to(device)


@torch.no_grad()
def measure(model: str, num_views: int, size: int, device: str, repeats: int) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    backbone = MODELS[model].setup().to(device).eval()
    views = views_of(num_views, size, device)
    seconds, count = [], 0
    for _ in range(repeats):
        begin = time.perf_counter()
        count = backbone(views).gaussians.num_gaussians
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    memory = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else peak / 1024
    return {"MiB": memory, "seconds": min(seconds), "Gaussians": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["depthsplat-small", "da3-small"], choices=list(MODELS))
    parser.add_argument("--views", nargs="+", type=int, default=[2, 4, 8, 12])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--one", action="store_true", help="measure one model at one number of views, print JSON")
    options = parser.parse_args()
    if options.one:
        row = measure(options.models[0], options.views[0], options.size, options.device, options.repeats)
        print(json.dumps(row))
        return
    where = f"{options.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{options.size}x{options.size}, {where}\n")
    print("| model | views | Gaussians | peak MiB | seconds |\n|---|---|---|---|---|")
    for model in options.models:
        for count in options.views:
            arguments = ["--one", "--models", model, "--views", count, "--size", options.size]
            arguments += ["--device", options.device, "--repeats", options.repeats]
            command = [sys.executable, __file__, *map(str, arguments)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
                print(f"| {model} | {count} | | | {reason} |", flush=True)
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            numbers = f"{row['Gaussians']:,} | {row['MiB']:,.0f} | {row['seconds']:.2f}"
            print(f"| {model} | {count} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
