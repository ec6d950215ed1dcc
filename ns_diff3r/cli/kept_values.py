# SPDX-License-Identifier: Apache-2.0
"""Values of a slow deterministic function, kept on disk while they come, so that a run that was killed goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class KeptValues:
    """Values in the order of their evaluation, in a file of JSON lines that goes once the run is complete.

    The first value of every sequence is computed again and has to be the same bits: another build, number of threads
    or scene under the same name gives other ones, and what was kept of that sequence is then not used.
    """

    def __init__(self, path: Path | None, command: dict[str, Any]) -> None:
        """Read what a killed run of the same command left; of another command, nothing is used.

        Args:
            path: the file; None: nothing is kept.
            command: everything that the values depend on, as JSON has it.
        """
        self.path = path
        self.found: dict[str, list[float]] = {}
        self.resumed = 0
        """Values that were not computed again."""
        if path is None:
            return
        header = json.dumps(command, sort_keys=True)
        if path.is_file():
            text = path.read_text()
            first, *lines = text[: text.rfind("\n")].split("\n")  # the last line may be cut off
            if first == header:
                for key, value in map(json.loads, lines):
                    self._take(key, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [json.dumps([key, value]) for key, values in self.found.items() for value in values]
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text("".join(f"{line}\n" for line in (header, *kept)))
        temporary.replace(path)

    def of(self, key: str, function: Callable[..., float]) -> Callable[..., float]:
        """`function`, whose values are kept as the sequence `key`; those that are known are not computed."""
        if self.path is None:
            return function
        known = self.found.get(key, [])
        count = 0

        def evaluate(*arguments: Any) -> float:
            nonlocal count, known
            count += 1
            if 1 < count <= len(known):
                self.resumed += 1
                return known[count - 1]
            value = function(*arguments)
            if count == 1 and known and known[0] != value:
                known = []
                self._append(key, None)
            if count > len(known):
                self._append(key, value)
            return value

        return evaluate

    def finish(self) -> None:
        """Remove the file, its values being in the results."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _take(self, key: str, value: float | None) -> None:
        if value is None:  # the sequence begins again
            self.found.pop(key, None)
        else:
            self.found.setdefault(key, []).append(value)

    def _append(self, key: str, value: float | None) -> None:
        assert self.path is not None
        with self.path.open("a") as stream:
            stream.write(json.dumps([key, value]) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
