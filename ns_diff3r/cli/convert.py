# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r convert`: scenes to chunks (RealEstate10K, ACID, DL3DV as pixelSplat and others store them), and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass
class Convert:
    """Convert scenes (nerfstudio, instant-ngp, COLMAP) to chunks, or chunks to nerfstudio scenes.

    Which of the two is seen from the data. JPEG files keep their bytes, so that a way there and back changes no image;
    cameras are rounded to float32.
    """

    data: tyro.conf.Positional[Path]
    """A scene, a folder of scenes, or a folder with chunks (or with train and test folders of chunks)."""
    output: tyro.conf.Positional[Path]
    """Folder to write to."""
    scenes: tuple[str, ...] = ()
    """From chunks: keys of the scenes to write; default: all."""
    test: tuple[str, ...] = ()
    """To chunks: names of the scenes for the test folder; the others go to train."""
    max_size: int | None = None
    """To chunks: longest side of the images; default: as they are."""
    chunk_megabytes: float = 100.0
    """To chunks: size of a file."""

    def run(self) -> int:
        """Convert, and say how much."""
        from ..data.chunk_conversion import chunks_to_scenes, scenes_to_chunks
        from ..data.chunks import ChunkFolder, chunk_folders
        from ..data.collection import open_collection
        from .tables import make_folder

        make_folder(self.output)
        folders = chunk_folders(self.data) if self.data.is_dir() else {}
        if folders:
            for split, path in folders.items():
                folder = ChunkFolder(path)
                keys = [key for key in self.scenes if key in folder.keys]
                if self.scenes and not keys:
                    continue
                count = chunks_to_scenes(folder, self.output / split, keys=keys, progress=_say)
                print(f"{count} scenes of {path} written to {self.output / split}")
            return 0
        collection = open_collection(self.data)
        counts = scenes_to_chunks(
            collection,
            self.output,
            test=self.test,
            max_size=self.max_size,
            chunk_bytes=int(self.chunk_megabytes * 1e6),
            progress=_say,
        )
        print(", ".join(f"{count} scenes in {self.output / split}" for split, count in counts.items()))
        return 0


def _say(name: str) -> None:
    print(name, flush=True)
