# SPDX-License-Identifier: Apache-2.0
"""Whether weights fit a network, and a report that people can read if not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SHOWN = 5


@dataclass(frozen=True)
class KeyReport:
    """What differs between the weights of a file and of a network.

    Attributes:
        missing: names that the network has and the file lacks.
        unexpected: names that the file has and the network lacks.
        misshaped: name → (shape in the file, shape in the network).
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def fits(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        parts = []
        for kind, names in (("missing", self.missing), ("unexpected", self.unexpected)):
            if names:
                parts.append(f"{len(names)} {kind}: {_listed(names)}")
        if self.misshaped:
            shown = [
                f"{name} {list(found)} instead of {list(wanted)}"
                for name, (found, wanted) in list(self.misshaped.items())[:SHOWN]
            ]
            rest = len(self.misshaped) - len(shown)
            more = f", … {rest} more" if rest else ""
            parts.append(f"{len(self.misshaped)} of another shape: {', '.join(shown)}{more}")
        return "\n  ".join(parts) or "every name and shape agrees"


def compare_keys(file: Mapping[str, Sequence[int]], network: Mapping[str, Sequence[int]]) -> KeyReport:
    """Compare names and shapes."""
    return KeyReport(
        missing=tuple(name for name in network if name not in file),
        unexpected=tuple(name for name in file if name not in network),
        misshaped={
            name: (tuple(file[name]), tuple(shape))
            for name, shape in network.items()
            if name in file and tuple(file[name]) != tuple(shape)
        },
    )


def _listed(names: Sequence[str]) -> str:
    """The first few names, or the parts that they belong to where there are many."""
    if len(names) <= SHOWN:
        return ", ".join(names)
    parts = Counter(".".join(name.split(".")[:2]) for name in names)
    shown = ", ".join(f"{part}.* ({count})" for part, count in parts.most_common(SHOWN))
    return shown + (f", … {len(parts) - SHOWN} more parts" if len(parts) > SHOWN else "")
