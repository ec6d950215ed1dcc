# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not there: written aside, synchronised, renamed; the previous one goes last."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

NAME = re.compile(r"step-(\d+)\.ckpt")


def checkpoint_name(step: int) -> str:
    """File name of the checkpoint of a step; nerfstudio's."""
    return f"step-{step:09d}.ckpt"


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], keep_previous: bool = False) -> Path:
    """Write `state` as the checkpoint of `step`; a kill or a full disk at any moment leaves the previous one whole.

    The file grows beside the folder, not in it: nerfstudio takes every file in the folder for a checkpoint.

    Args:
        folder: of the checkpoints; made if missing.
        step: number in the file's name.
        state: tensors and plain Python values, as `torch.load(weights_only=True)` reads them.
        keep_previous: do not remove the other checkpoints afterwards.

    Raises:
        OSError: the file cannot be written; names it.
    """
    folder = folder.absolute()
    path = folder / checkpoint_name(step)
    temporary = folder.parent / f".{folder.name}.saving"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            torch.save(dict(state), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _synchronize(folder)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: the checkpoint could not be written: {_reason(error)}") from error
    if not keep_previous:
        for other in checkpoints(folder):
            if other != path:
                other.unlink(missing_ok=True)
    return path


def _reason(error: BaseException) -> str:
    """The system's words for a failed write, which torch covers with its own."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__context__
    return str(error) if cause is None else str(cause.strerror)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files of a folder, oldest step first; [] if there is no folder. They may be broken."""
    if not folder.is_dir():
        return []
    found = [(int(match.group(1)), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest step that is not cut off, or None. Files are not read as a whole."""
    return next((path for path in reversed(checkpoints(folder)) if is_complete(path)), None)


def is_complete(path: Path) -> bool:
    """Whether the file is a zip archive to its end, as torch writes it; a file that was cut off is not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("data.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Contents of a checkpoint, on the CPU; never runs code from the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: cut off, not a checkpoint, or holding more than tensors and plain values; names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint")
    if not is_complete(path):
        raise ValueError(f"{path}: not a complete checkpoint (cut off, or another format)")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways
        raise ValueError(f"{path}: cannot be read as a checkpoint: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: not a checkpoint, but a {type(state).__name__}")
    return state


def _synchronize(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure, where the system can open folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
