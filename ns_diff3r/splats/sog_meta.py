# SPDX-License-Identifier: Apache-2.0
"""The fields of a SOG's meta.json, checked: what is wrong becomes one error that names the file and the field."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
MAX_GAUSSIANS = 2**26
"""More than any scene has; bounds what a file that lies about its number can make us read."""
GROUPS = ("means", "scales", "quats", "sh0", "shN")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SogMeta:
    """A parsed meta.json. Every method raises ValueError for a field that is missing or not as the format has it."""

    owner: str
    content: dict[str, Any]
    version: int

    @staticmethod
    def parse(text: bytes, owner: str) -> SogMeta:
        """From the contents of the file `owner`; ValueError unless it is a JSON object of version 1 or 2."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: also bytes that are no text, and endless numbers
            raise ValueError(f"{owner}: not readable as JSON ({error})") from error
        if not isinstance(content, dict):
            raise ValueError(f"{owner}: must hold a JSON object, got {type(content).__name__}")
        version = content.get("version", 1)
        if version not in (1, 2) or isinstance(version, bool):
            raise ValueError(f"{owner}: version is {version!r:.60}, but 1 (no such field) and 2 are read")
        return SogMeta(owner, content, int(version))

    def has(self, group: str) -> bool:
        """Whether there is such a group."""
        return self.content.get(group) is not None

    def field(self, name: str) -> Any:
        """The value of a field, by its dotted name."""
        value: Any = self.content
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ValueError(f"{self.owner}: no field {name}")
            value = value[part]
        return value

    def integer(self, name: str, most: int) -> int:
        """A whole number from 1 to `most`."""
        return self._integer(self.field(name), name, most)

    def numbers(self, name: str, count: int) -> Floats:
        """A list of `count` finite numbers; a single number stands for a list of one."""
        return self._numbers(self.field(name), name, count)

    def codebook(self, group: str) -> Floats:
        """The 256 numbers of a codebook.

        Early writers left the first one empty (null); it then lies as far before the second as the others do from
        each other on average.
        """
        name = f"{group}.codebook"
        value = self.field(name)
        if isinstance(value, list) and len(value) == LEVELS and value[0] is None:
            rest = self._numbers(value[1:], f"{name}[1:]", LEVELS - 1)
            return np.concatenate([[rest[0] - (rest[-1] - rest[0]) / (LEVELS - 2)], rest])
        return self._numbers(value, name, LEVELS)

    def files(self, group: str, count: int) -> list[str]:
        """The names of the `count` images of a group."""
        names = self.field(f"{group}.files")
        if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{self.owner}: {group}.files must be a list of {count} file names, got {names!r:.60}")
        return names

    def num_gaussians(self) -> int:
        """The field `count`; in version 1 the first number of every group's shape, which must agree."""
        if self.version == 2:
            return self.integer("count", MAX_GAUSSIANS)
        counts = {}
        for group in GROUPS:
            if group != "shN" or self.has(group):
                name, shape = f"{group}.shape", self.field(f"{group}.shape")
                if not isinstance(shape, list) or not shape:
                    raise ValueError(f"{self.owner}: {name} must be a list of numbers, got {shape!r:.60}")
                counts[group] = self._integer(shape[0], f"{name}[0]", MAX_GAUSSIANS)
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{group} {count}" for group, count in counts.items())
            raise ValueError(f"{self.owner}: shapes disagree about the number of Gaussians: {listed}")
        return counts["means"]

    def _integer(self, value: Any, name: str, most: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ValueError(f"{self.owner}: {name} must be a whole number from 1 to {most}, got {value!r:.60}")
        return value

    def _numbers(self, value: Any, name: str, count: int) -> Floats:
        values = value if isinstance(value, list) else [value]
        if len(values) != count:
            raise ValueError(f"{self.owner}: {name} must hold {count} numbers, got {len(values)}")
        if not all(_is_finite_number(number) for number in values):
            bad = next(number for number in values if not _is_finite_number(number))
            raise ValueError(f"{self.owner}: {name} must hold finite numbers, got {bad!r:.60}")
        return np.array(values, dtype=np.float64)


def _is_finite_number(value: Any) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond what floats hold
        return False
