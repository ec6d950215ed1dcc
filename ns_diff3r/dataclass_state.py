# SPDX-License-Identifier: Apache-2.0
"""Settings that outlive their class: a stored dataclass that lacks fields added later gets their defaults."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any


class DefaultsForMissingFields:
    """Mixin for dataclasses that are stored and read back without their constructor (nerfstudio's config.yml, pickles).

    A field added after an object was stored is missing in its state. One with a plain default is then found on the
    class, one with a `default_factory` would be an AttributeError; this fills in both. Fields that no longer exist are
    kept as attributes and do no harm. Works for frozen dataclasses.
    """

    def __setstate__(self, state: dict[str, Any]) -> None:
        for field in fields(self):  # pyright: ignore[reportArgumentType] - subclasses are dataclasses
            if field.name in state:
                continue
            if field.default_factory is not MISSING:
                self.__dict__[field.name] = field.default_factory()
            elif field.default is not MISSING:
                self.__dict__[field.name] = field.default
        self.__dict__.update(state)
