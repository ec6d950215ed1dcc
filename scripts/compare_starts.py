# SPDX-License-Identifier: Apache-2.0
"""Is a network's prediction a better start than a scene's sparse points? Both optimised for the same seconds.

python scripts/compare_starts.py --data …/fox …/lund_door --views 2 5 --size 256 [--weights NAME] [--csv FILE]

The context views are spread over the scene, every 8th image is held out and judged. The prediction is optimised as
`ns-diff3r reconstruct` does it, where not forbidden with the sparse points as well; the sparse points alone, with the
rates of `ns-diff3r optimize`, until the seconds that prediction and optimisation took together have passed. (Sparse
points of a registration know the held-out images too.)
"""

import argparse
import csv
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ns_diff3r.cli.tables import print_table
from ns_diff3r.data import BatchSampler, gaussians_from_points, load_scene, open_collection
from ns_diff3r.evaluation.metrics import psnr
from ns_diff3r.rasterization import render
from ns_diff3r.solver import DifferentiableTTO, LearningRates, TTOConfig
from ns_diff3r.splats import Gaussians, Views
from ns_diff3r.training.inference import reconstruct
from ns_diff3r.training.weights import TrainedNetwork, at_working_size, open_weights

POINTS_RATE_FACTOR = 4.0
"""Of `ns-diff3r optimize`."""
MOST_STEPS = 100_000


def views_of(scene: Path, network: TrainedNetwork, count: int, size: int, sparse_points: bool) -> tuple[Views, Views]:
    """Context and held-out views of a scene."""
    config = replace(network.settings.collection, eval_scenes=(), near=None, far=None, image_size=None, max_size=size)
    config.sparse_points = sparse_points
    config.split = replace(config.split, all=False)
    collection = open_collection(scene, config)
    sampler = replace(
        network.settings.sampler, num_context=2, num_evaluation_context=count, evaluation_selection="farthest"
    )
    context, targets = BatchSampler(sampler, collection).evaluation(0)
    return collection.views(0, context), collection.views(0, targets)


def quality(gaussians: Gaussians, targets: Views) -> float:
    """Mean PSNR of the views, dB."""
    rgb = render(gaussians, targets.cameras).rgb.clamp(0, 1)
    return sum(psnr(*pair) for pair in zip(rgb, targets.images, strict=True)) / targets.num_views


def from_points(scene: Path, context: Views, seconds: float) -> tuple[Gaussians, int, float]:
    """The scene's sparse points after so many seconds: (result, steps, seconds)."""
    points = load_scene(scene).points
    if points is None:
        raise SystemExit(f"{scene}: no sparse points")
    rates = {name: POINTS_RATE_FACTOR * rate for name, rate in asdict(LearningRates()).items()}
    config = TTOConfig(num_steps=MOST_STEPS, learning_rates=LearningRates(**rates), time_budget=seconds)
    begin = time.perf_counter()
    result, solution = DifferentiableTTO(config).eval()(gaussians_from_points(points), None, context)
    return result, solution.num_steps, time.perf_counter() - begin


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="A network's prediction against sparse points, at equal seconds.")
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--views", type=int, nargs="+", default=[2, 5])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--network-size", type=int)
    parser.add_argument("--no-sparse-points", action="store_true", help="the network sees photographs alone")
    parser.add_argument("--scale", choices=("training", "scene"), help="D; default: as the weights say")
    parser.add_argument("--weights", default="diff3r-wide")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    network = open_weights(options.weights)
    if options.network_size is not None:
        network = at_working_size(network, options.network_size)
    if options.scale is not None:
        network.module.config = replace(network.module.config, tto_scale_eval=options.scale)
    rows = []
    for scene in options.data:
        for count in options.views:
            context, targets = views_of(scene, network, count, options.size, not options.no_sparse_points)
            with torch.no_grad():
                found = reconstruct(network.module, context, options.steps)
                seconds = found.predict_seconds + found.tto_seconds
                points, steps, points_seconds = from_points(scene, context, seconds)
                rows.append(
                    {
                        "scene": scene.name,
                        "views": count,
                        "Gaussians": found.after.num_gaussians,
                        "predicted": quality(found.before, targets),
                        "optimised": quality(found.after, targets),
                        "seconds": seconds,
                        "from points": quality(points, targets),
                        "their number": points.num_gaussians,
                        "their steps": steps,
                        "their seconds": points_seconds,
                    }
                )
            print(*(f"{value:.2f}" if isinstance(value, float) else value for value in rows[-1].values()), flush=True)
    print_table("PSNR of held-out images [dB]", rows, f"{options.weights}, {options.size} pixels")
    if options.csv is not None:
        with options.csv.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
