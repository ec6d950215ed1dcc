# SPDX-License-Identifier: Apache-2.0
"""Load published weights strictly and measure what DepthSplat's reach on published test scenes.

For whoever has network and accepts the licences. DepthSplat publishes two test scenes of RealEstate10K as chunks, which
--subset fetches together with the evaluation index; any other folder of chunks will do.

    python scripts/check_official_weights.py depthsplat-small-re10k-256x256 --subset outputs/re10k_subset
    python scripts/check_official_weights.py FILE.pth --data re10k/test --index evaluation_index_re10k.json

Images are taken to --size as in the official code (Lanczos on 8 bit, centre crop), near and far are 0.5 and 100, and
renderings use the original rasteriser's rules, a centred principal point and a black background.
"""

from __future__ import annotations

import argparse
import hashlib
import urllib.request
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ns_diff3r.backbones.depthsplat import DepthSplatBackbone
from ns_diff3r.backbones.pretrained import PretrainedBackbone
from ns_diff3r.backbones.weights.catalogue import CATALOGUE
from ns_diff3r.backbones.weights.fetching import WeightsError, fetch_weights
from ns_diff3r.backbones.weights.loading import load_published_weights
from ns_diff3r.backbones.weights.recognising import config_of_weights
from ns_diff3r.data import SceneError
from ns_diff3r.data.chunk_scenes import chunk_scene
from ns_diff3r.data.chunks import ChunkFolder
from ns_diff3r.data.evaluation_index import IndexEntry, read_evaluation_index
from ns_diff3r.data.official_crop import official_views
from ns_diff3r.rasterization import render
from ns_diff3r.rasterization.config import resolve_preset

NEAR, FAR = 0.5, 100.0
SUBSET = ("haofeixu/depthsplat", "re10k_720p_test_subset.zip")
"""Data set and file on the hub."""
INDEX_URL = "https://raw.githubusercontent.com/cvg/depthsplat/main/assets/evaluation_index_re10k.json"
INDEX_SHA256 = "fbcff9b4"
PUBLISHED = {"large": "about 27.5 dB on the whole test set (cvg/depthsplat#68)"}
"""PSNR on RealEstate10K, 2 views at 256 x 256, where the authors state it. A few scenes need not agree with it."""


@torch.no_grad()
def mean_psnr(
    backbone: PretrainedBackbone, folder: ChunkFolder, index: dict[str, IndexEntry], size: tuple[int, int]
) -> list[float]:
    """PSNR of every target view of the scenes that the index names."""
    rules = replace(resolve_preset("inria"), near_plane=0.2 * NEAR)
    figures = []
    for key in folder.keys:
        if key not in index:
            print(f"  {key}: not in the index")
            continue
        scene = chunk_scene(folder, key)
        context, targets = (
            official_views(scene, indices, size, NEAR, FAR) for indices in (index[key].context, index[key].targets)
        )
        images = render(backbone(context).gaussians, targets.cameras, preset=rules, background=torch.zeros(3)).rgb
        error = (images.clamp(0, 1) - targets.images).square().flatten(1).mean(1)
        figures += (-10 * error.log10()).tolist()
        print(f"  {key}: {', '.join(f'{value:.2f}' for value in figures[-len(error) :])} dB", flush=True)
    return figures


def fetch_subset(folder: Path) -> tuple[Path, Path]:
    """The published test chunks and the evaluation index, downloaded where they are not in `folder` yet."""
    index = folder / "evaluation_index_re10k.json"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not any(folder.rglob("*.torch")):
            from huggingface_hub import hf_hub_download

            with zipfile.ZipFile(hf_hub_download(*SUBSET, repo_type="dataset")) as archive:
                archive.extractall(folder)
        if not index.is_file():
            with urllib.request.urlopen(INDEX_URL, timeout=60) as answer:
                content = answer.read()
            if not hashlib.sha256(content).hexdigest().startswith(INDEX_SHA256):
                raise WeightsError(f"{INDEX_URL}: not the index that evaluations of RealEstate10K share")
            index.write_bytes(content)
    except (OSError, ImportError, zipfile.BadZipFile) as error:  # the hub's connection errors are OSErrors
        raise SystemExit(
            f"the published test scenes cannot be fetched ({error}). Without network: get {SUBSET[1]} of the data set "
            f"{SUBSET[0]} and {INDEX_URL} on another machine, and name them by --data and --index"
        ) from error
    found = [path.parent for path in sorted(folder.rglob("index.json")) if any(path.parent.glob("*.torch"))]
    if not found:
        raise SystemExit(f"{folder}: no folder with index.json and *.torch in what was downloaded")
    return found[0], index


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", nargs="*", help="names, references or files; default: everything in the catalogue")
    parser.add_argument("--data", type=Path, help="folder of test chunks")
    parser.add_argument("--index", type=Path, help="evaluation index: key -> {context, target}; needed with --data")
    parser.add_argument("--subset", type=Path, help="instead of these: folder for the published test scenes")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args(arguments)
    if (options.data is None) != (options.index is None) or (options.data and options.subset):
        parser.error("give --data and --index together, or --subset")
    data, file = fetch_subset(options.subset) if options.subset else (options.data, options.index)
    try:
        folder, index = (ChunkFolder(data), read_evaluation_index(file)) if data else (None, {})
    except SceneError as error:
        raise SystemExit(str(error)) from error
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
        if folder is not None and isinstance(backbone, DepthSplatBackbone):
            figures = mean_psnr(backbone, folder, index, tuple(options.size))
            published = PUBLISHED.get(backbone.config.size, "no number for this size is known here")
            mean = f"{sum(figures) / len(figures):.3f} dB" if figures else "of nothing: no scene of the index"
            print(f"  PSNR {mean} ({len(figures)} images); published: {published}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
