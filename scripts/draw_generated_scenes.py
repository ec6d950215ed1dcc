# SPDX-License-Identifier: Apache-2.0
"""Draw a contact sheet of generated scenes: five views each of two scenes of every kind.

python scripts/draw_generated_scenes.py [FILE]        default: docs/images/generated_scenes.jpg
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ns_diff3r.data import GeneratedConfig
from ns_diff3r.data.worlds.generation import generate_scene
from ns_diff3r.data.worlds.layouts import LAYOUTS

SIZE, VIEWS = (84, 112), (2, 5, 8, 11, 14)
DEFAULT = Path(__file__).resolve().parents[1] / "docs" / "images" / "generated_scenes.jpg"


def main(file: Path) -> None:
    """Write the picture."""
    rows = []
    for kind in LAYOUTS:
        row = [generate_scene(GeneratedConfig(kinds=(kind,)), 200 + i).views(VIEWS, size=SIZE).images for i in range(2)]
        rows.append(torch.cat(list(torch.cat(row)), dim=1))
    pixels = np.rint(torch.cat(rows).numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(file, quality=82)
    print(f"{file}: {file.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
