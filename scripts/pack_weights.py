# SPDX-License-Identifier: Apache-2.0
"""Make a weights file with its model card from a training run.

python scripts/pack_weights.py RUN FILE.safetensors --data … --licence … --command … --figures … [--credits …]
"""

import argparse
from dataclasses import replace
from pathlib import Path

from ns_diff3r.training.weights import at_working_size, open_weights, sha256_of
from ns_diff3r.training.weights_file import MAX_BYTES, ModelCard, write_weights


def main() -> None:
    """Read the run, write FILE and FILE with the suffix .md."""
    parser = argparse.ArgumentParser(description="Half-precision safetensors with a model card from a training run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    for name in ("data", "licence", "command", "figures"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--credits", default="")
    parser.add_argument("--max-size", type=int, help="longest side at which commands take photographs by default")
    parser.add_argument("--working-size", type=int, help="longest side at which the network sees them by default")
    parser.add_argument("--rate-factor", type=float, help="on the learning rates of test-time optimisation, by default")
    parser.add_argument("--scale-eval", choices=("training", "scene"), help="D of test-time optimisation by default")
    options = parser.parse_args()
    network = open_weights(options.run)
    if options.working_size is not None:
        network = at_working_size(network, options.working_size)
    settings = network.settings
    if options.scale_eval is not None:
        settings = replace(settings, training=replace(settings.training, tto_scale_eval=options.scale_eval))
    if options.rate_factor is not None:
        settings = replace(settings, training=replace(settings.training, tto_rate_factor=options.rate_factor))
    if options.max_size is not None:
        collection = replace(settings.collection, image_size=None, max_size=options.max_size)
        settings = replace(settings, collection=collection)
    texts = {name: getattr(options, name) for name in ("data", "licence", "command", "figures", "credits")}
    card = ModelCard(name=options.file.stem, **texts)
    write_weights(options.file, settings, network.module, network.step, card)
    digest, size = sha256_of(options.file), options.file.stat().st_size
    options.file.with_suffix(".md").write_text(card.markdown(settings, network.step, digest))
    note = "" if size <= MAX_BYTES else f"; too large for the package, which takes {MAX_BYTES / 2**20:.0f} MiB"
    print(f"{options.file}: {size / 2**20:.1f} MiB, sha256 {digest}{note}")


if __name__ == "__main__":
    main()
