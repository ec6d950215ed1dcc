# SPDX-License-Identifier: Apache-2.0
"""The files that make up a SOG, in a folder or in a zip: read into memory, within bounds, never written anywhere."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

META = "meta.json"
META_BYTES = 2**20
"""Most bytes of meta.json; one with three codebooks of 256 numbers has about 16 thousand."""
HEADER_BYTES = 2**16
"""Bytes that an image file may have beyond those of its pixels."""
READING_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError, OSError)
"""What Python's zipfile raises for damaged, encrypted and unknown entries, and files for anything."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SogFiles:
    """meta.json and the images beside it."""

    prefix: str
    """Where they are: comes before a file's name in messages."""
    meta_name: str
    open_file: Callable[[str], IO[bytes]]
    """From a name; raises FileNotFoundError or KeyError for a missing file."""

    def read_meta(self) -> bytes:
        """meta.json; ValueError if it is missing, too long or cannot be read."""
        return self._read(self.meta_name, f"{self.prefix}{self.meta_name}", META_BYTES)

    def read_image(self, name: str, field: str, fewest: int, most: int) -> Pixels:
        """The bytes of an image as they are stored, [H, W, 4] red, green, blue, alpha (255 where it has none).

        Nothing is multiplied by alpha or converted between colour spaces. The size is checked before pixels are
        decoded, so that a small file cannot fill the memory.

        Args:
            name: the file; a plain name, as it stands beside meta.json.
            field: the field of meta.json that names it, for messages.
            fewest: pixels that it must have.
            most: pixels that it may have.

        Raises:
            ValueError: not a plain name, no such file, no readable 8-bit image, or one of another size.
        """
        from PIL import Image

        owner = f"{self.prefix}{name} ({field})"
        if name != PurePosixPath(name).name or name == ".." or "\\" in name or ":" in name or "\0" in name:
            raise ValueError(f"{self.prefix}{self.meta_name}: {field} must name a file beside it, got {name!r}")
        content = self._read(name, owner, 4 * most + HEADER_BYTES)
        try:
            with Image.open(io.BytesIO(content), formats=("WEBP", "PNG")) as image:
                (width, height), mode = image.size, image.mode
                usable = mode in ("RGB", "RGBA") and fewest <= width * height <= most
                pixels = np.asarray(image.convert("RGBA")) if usable else np.zeros((0, 0, 4), dtype=np.uint8)
        # Pillow raises SyntaxError for broken PNGs, ValueError and EOFError for some other broken files.
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise ValueError(f"{owner}: not a readable WebP or PNG image ({error})") from error
        if mode not in ("RGB", "RGBA"):
            raise ValueError(f"{owner}: must have red, green and blue of 8 bits, got Pillow's mode {mode}")
        if width * height < fewest:
            raise ValueError(f"{owner}: has {width} × {height} pixels, but {fewest} are needed")
        if width * height > most:
            raise ValueError(f"{owner}: has {width} × {height} pixels, but no more than {most} can be needed")
        return pixels

    def _read(self, name: str, owner: str, most: int) -> bytes:
        try:
            with self.open_file(name) as stream:
                content = stream.read(most + 1)
        except (FileNotFoundError, KeyError):
            raise ValueError(f"{owner}: no such file") from None
        except READING_ERRORS as error:
            raise ValueError(f"{owner}: cannot be read ({error})") from error
        if len(content) > most:
            raise ValueError(f"{owner}: has more than the {most} bytes that can be needed")
        return content


@contextmanager
def opened_sog(path: Path) -> Iterator[SogFiles]:
    """The files in a folder, beside a meta.json (of any name with .json), or else in a zip.

    In a zip they lie at the root, or all together in one folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged zip, or a folder or zip without meta.json; names it.
    """
    if path.is_dir() or path.suffix.lower() == ".json":
        folder, meta_name = (path, META) if path.is_dir() else (path.parent, path.name)
        if path.is_dir() and not (path / META).is_file():
            raise ValueError(f"{path}: no {META} in this folder; the only folders that are read are those of a SOG")
        yield SogFiles(f"{folder}/", meta_name, lambda name: (folder / name).open("rb"))
        return
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise
    except READING_ERRORS as error:
        raise ValueError(f"{path}: not a readable zip, as a .sog file is ({error})") from error
    with archive:
        folders = [PurePosixPath(name).parent for name in archive.namelist() if PurePosixPath(name).name == META]
        if not folders:
            raise ValueError(f"{path}: no {META} in this zip; a .sog file is a zip of {META} and its images")
        within = min(folders, key=lambda folder: len(folder.parts))
        yield SogFiles(f"{path}: ", META, lambda name: archive.open(str(within / name)))
