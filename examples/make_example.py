# SPDX-License-Identifier: Apache-2.0
"""Make the bundled example scene: a ray-cast room in nerfstudio's format, with an exact camera for every image.

python examples/make_example.py [FOLDER]        default: examples/room
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ns_diff3r.data.generated_room import render_room, room_cameras, room_points
from ns_diff3r.data.point_clouds import write_point_cloud


def main(folder: Path) -> None:
    """Write images/, transforms.json and sparse_pc.ply below `folder`."""
    cameras = room_cameras(num_views=12, width=240, height=180)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    K = cameras.Ks[0]
    content = {
        "camera_model": "OPENCV",
        **{"fl_x": float(K[0, 0]), "fl_y": float(K[1, 1]), "cx": float(K[0, 2]), "cy": float(K[1, 2])},
        **{"w": cameras.width, "h": cameras.height},
        "ply_file_path": "sparse_pc.ply",
        "frames": [],
    }
    camera_to_worlds = torch.linalg.inv(cameras.viewmats) @ torch.diag(torch.tensor([1.0, -1, -1, 1]).double())
    for i, image in enumerate(render_room(cameras, samples=4)):
        name = f"images/{i:02d}.jpg"
        pixels = np.rint(image.numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, quality=92, subsampling=0)
        pose = camera_to_worlds[i].numpy().round(9)
        content["frames"].append({"file_path": name, "transform_matrix": (pose + 0.0).tolist()})
    (folder / "transforms.json").write_text(json.dumps(content, indent=1) + "\n")
    cloud = room_points(cameras, count=4000)
    write_point_cloud(folder / "sparse_pc.ply", cloud.points, cloud.colors)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "room")
