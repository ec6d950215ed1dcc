# SPDX-License-Identifier: Apache-2.0
"""Results of a command: as a table on the terminal, as JSON in a file, and the folder that they go to."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def print_table(title: str, rows: Sequence[dict[str, Any]], caption: str | None = None) -> None:
    """Print rows of equal keys; the keys are the header, floats get four significant digits, None is left empty."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=caption, caption_justify="left", title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        table.add_row(*(_text(value) for value in row.values()))
    # A pipe has no width; a wide one keeps tables whole in logs.
    Console(width=None if os.isatty(1) else 200).print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def make_folder(path: Path) -> None:
    """Make a folder if it is missing; OSError naming it if nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".writable").touch()
        (path / ".writable").unlink()
    except OSError as error:
        raise OSError(f"cannot write to {path}: {error.strerror}") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` with the environment it was measured in, through a temporary name; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps({"environment": environment(), **content}, indent=1) + "\n")
    temporary.replace(path)


def environment() -> dict[str, Any]:
    """What results depend on: versions, processor, threads."""
    import torch

    from .. import __version__

    return {
        "ns_diff3r": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
