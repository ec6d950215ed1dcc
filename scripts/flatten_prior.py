# SPDX-License-Identifier: Apache-2.0
"""What is it worth that λ differs from Gaussian to Gaussian? And is it λ that makes one network better than another?

python scripts/flatten_prior.py --data data/dev --weights diff3r [--donor outputs/adjoint-2] [--size 64]

PSNR of all held-out images after test-time optimisation, mean of scenes: as the network says; with λ of one attribute
group, or of all, replaced by its geometric mean over the Gaussians of the scene; and, of networks whose Gaussians have
the same order, with λ of one group taken from the donor.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ns_diff3r.cli.tables import print_table
from ns_diff3r.data import BatchSampler, CollectionConfig, SamplerConfig, SceneBatch, open_collection
from ns_diff3r.evaluation.metrics import psnr
from ns_diff3r.rasterization import render
from ns_diff3r.splats import GROUPS, Gaussians, Views
from ns_diff3r.training.inference import evaluating, evaluation_layer
from ns_diff3r.training.step import TrainingModule
from ns_diff3r.training.weights import open_weights

Prior = dict[str, Tensor]


def flattened(prior: Prior, groups: tuple[str, ...]) -> Prior:
    """λ with the geometric mean for every Gaussian in these groups."""
    return {k: v.log().mean(0, keepdim=True).exp().expand_as(v) if k in groups else v for k, v in prior.items()}


def qualities(gaussians: Gaussians, targets: Views) -> list[float]:
    """PSNR of every view, dB."""
    pictures = render(gaussians, targets.cameras).rgb.clamp(0, 1)
    return [psnr(*pair) for pair in zip(pictures, targets.images, strict=True)]


@torch.no_grad()
def measured(
    module: TrainingModule, sampler: BatchSampler, change: Callable[[Prior, SceneBatch], Prior]
) -> tuple[float, int, int]:
    """(mean over scenes of PSNR after optimisation, images that gain by it, images)."""
    means, gains, count = [], 0, 0
    with evaluating(module):
        for scene in range(len(sampler.collection.names)):
            after: list[float] = []
            for item in sampler.evaluation_items(scene):
                batch = sampler.load(item)
                output = module.network(batch.context)
                prior = change(output.prior, batch)
                result, _ = evaluation_layer(module)(output.gaussians, prior, batch.context)
                found = [qualities(gaussians, batch.targets) for gaussians in (output.gaussians, result)]
                gains += sum(b > a for a, b in zip(*found, strict=True))
                count += batch.targets.num_views
                after += found[1]
            means.append(sum(after) / len(after))
    return sum(means) / len(means), gains, count


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="λ without its dependence on place, or from another network.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--donor", type=Path)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    module = open_weights(options.weights).module
    config = CollectionConfig(image_size=(options.size, options.size))
    sampler = BatchSampler(SamplerConfig(), open_collection(options.data, config))
    changes: dict[str, Callable[[Prior, SceneBatch], Prior]] = {"as predicted": lambda prior, _: prior}
    for name, groups in {**{g: (g,) for g in GROUPS}, "all groups": GROUPS}.items():
        changes[f"{name}: geometric mean"] = lambda prior, _, groups=groups: flattened(prior, groups)
    if options.donor is not None:
        donor = open_weights(options.donor).module

        def borrowed(prior: Prior, batch: SceneBatch, group: str) -> Prior:
            with evaluating(donor):
                return {**prior, group: donor.network(batch.context).prior[group]}

        for group in GROUPS:
            changes[f"{group}: of the donor"] = lambda prior, batch, group=group: borrowed(prior, batch, group)
    rows = []
    for name, change in changes.items():
        mean, gains, count = measured(module, sampler, change)
        rows.append({"λ": name, "PSNR": mean, "raised by TTO": f"{gains} of {count}"})
        print(f"{name}: {mean:.2f} dB, {gains} of {count}", flush=True)
    print_table("After test-time optimisation, mean of scenes [dB]", rows, str(options.weights))


if __name__ == "__main__":
    main()
