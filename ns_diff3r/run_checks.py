# SPDX-License-Identifier: Apache-2.0
"""What can be known to fail is said before training starts, in one line."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from nerfstudio.utils.rich_utils import CONSOLE
from torch import nn

from .data import SceneError, SceneWarning
from .data.generated_settings import is_generated

TRACEBACK = "NS_DIFF3R_TRACEBACK"
COPIES_IN_CHECKPOINT = 3
"""Of every trained number: the weight and Adam's two moments."""


def say(text: str, style: str | None = None) -> None:
    """A line on nerfstudio's console as it is: brackets in names are no markup, and long paths stay whole."""
    CONSOLE.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def warnings_on_console() -> Iterator[None]:
    """What is left out of scenes, as lines of nerfstudio's console; other warnings as they are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SceneWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, SceneWarning):
            say(str(warning.message), style="yellow")
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@contextmanager
def one_clear_error() -> Iterator[None]:
    """Turn a fault of the input into one message and exit status 1; with $NS_DIFF3R_TRACEBACK set, let it through."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get(TRACEBACK):
            raise
        CONSOLE.rule("Error", style="red")
        say(str(error))
        say(f"(set {TRACEBACK}=1 for a traceback)", style="dim")
        raise SystemExit(1) from None


def check_data(path: Path) -> None:
    """SceneError if there is nothing at `path`; before an output folder is made that may lie within it."""
    if path != Path() and not path.exists() and not is_generated(path):
        raise SceneError(f"{path}: no such file or folder (--data)")


def check_writable(folder: Path) -> None:
    """Make a folder and a file in it for a moment; OSError naming the folder if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"ns-diff3r")
            probe.flush()
    except OSError as error:
        raise OSError(f"{folder}: the output folder cannot be written: {error.strerror or error}") from error


def check_space(folder: Path, module: nn.Module, left_out: Collection[str] = ()) -> None:
    """OSError if the disk of an existing `folder` has no room for two checkpoints of `module`.

    Two, because a new one is whole before the old one goes. `left_out` are names of parameters that they do not hold.
    """
    held = [parameter for name, parameter in module.named_parameters() if name not in left_out]
    numbers = sum(parameter.numel() * parameter.element_size() for parameter in held)
    needed = 2 * COPIES_IN_CHECKPOINT * numbers
    free = shutil.disk_usage(folder).free
    if free < needed:
        sizes = f"checkpoints of this run need up to {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free"
        raise OSError(f"{folder}: {sizes}")
