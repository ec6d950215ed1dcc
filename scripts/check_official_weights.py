# SPDX-License-Identifier: Apache-2.0
"""Load published weights strictly and, where a test set is at hand, measure what they reach.

For whoever has network and accepts the licences. DepthSplat publishes two test scenes of RealEstate10K in chunks
(re10k_720p_test_subset.zip in the data set haofeixu/depthsplat of the hub); any folder of chunks will do.

    python scripts/check_official_weights.py depthsplat-small-re10k-256x256 --data re10k_subset/test --index index.json

Images are taken to 256 x 256 as in the official code (Lanczos on 8 bit, centre crop), near and far are 0.5 and 100,
and renderings use the original rasteriser's rules, a centred principal point and a black background.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from ns_diff3r.backbones.depthsplat import DepthSplatBackbone
from ns_diff3r.backbones.pretrained import PretrainedBackbone
from ns_diff3r.backbones.weights.catalogue import CATALOGUE
from ns_diff3r.backbones.weights.fetching import WeightsError, fetch_weights
from ns_diff3r.backbones.weights.loading import load_published_weights
from ns_diff3r.backbones.weights.recognising import config_of_weights
from ns_diff3r.data.chunk_scenes import chunk_scene
from ns_diff3r.data.chunks import ChunkFolder
from ns_diff3r.data.official_crop import official_views
from ns_diff3r.rasterization import render
from ns_diff3r.rasterization.config import resolve_preset
from ns_diff3r.splats import Views

NEAR, FAR, SIDE = 0.5, 100.0, 256
PUBLISHED = {"large": "about 27.5 dB on the whole test set (cvg/depthsplat#68)"}
"""PSNR on RealEstate10K, 2 views at 256 x 256, where the authors state it. A few scenes need not agree with it."""


def views_of(folder: ChunkFolder, key: str, indices: list[int]) -> Views:
    return official_views(chunk_scene(folder, key), indices, (SIDE, SIDE), NEAR, FAR)


@torch.no_grad()
def mean_psnr(backbone: PretrainedBackbone, data: Path, index: dict[str, dict[str, list[int]] | None]) -> list[float]:
    folder = ChunkFolder(data)
    rules = replace(resolve_preset("inria"), near_plane=0.2 * NEAR)
    figures = []
    for key in folder.keys:
        chosen = index.get(key)
        if chosen is None:
            continue
        gaussians = backbone(views_of(folder, key, chosen["context"])).gaussians
        targets = views_of(folder, key, chosen["target"])
        images = render(gaussians, targets.cameras, preset=rules, background=torch.zeros(3)).rgb.clamp(0, 1)
        error = (images - targets.images).square().flatten(1).mean(1)
        figures += (-10 * error.log10()).tolist()
        print(f"  {key}: {', '.join(f'{value:.2f}' for value in figures[-len(error) :])} dB", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", help="names, references or files; default: everything in the catalogue")
    parser.add_argument("--data", type=Path, help="folder of test chunks")
    parser.add_argument("--index", type=Path, help="evaluation index: key -> {context, target}")
    options = parser.parse_args()
    index = json.loads(options.index.read_text()) if options.index else {}
    failed = 0
    for reference in options.weights or [file.name for file in CATALOGUE]:
        print(reference)
        try:
            config = config_of_weights(fetch_weights(reference)[0])
            backbone = config.setup().eval()
            assert isinstance(backbone, PretrainedBackbone)
            load_published_weights(backbone, reference, say=lambda text: print(f"  {text}"))
        except WeightsError as error:
            print(f"  FAILED: {error}")
            failed += 1
            continue
        print(f"  loaded strictly: {backbone.describe()}")
        if options.data and isinstance(backbone, DepthSplatBackbone):
            figures = mean_psnr(backbone, options.data, index)
            published = PUBLISHED.get(backbone.config.size, "no number for this size is known here")
            mean = f"{sum(figures) / len(figures):.3f} dB" if figures else "of nothing: no scene of the index"
            print(f"  PSNR {mean} ({len(figures)} images); published: {published}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
