# SPDX-License-Identifier: Apache-2.0
"""Dataclasses of settings as plain JSON values and back, so that a run can be opened without unpickling anything."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")

PACKAGE = __name__.split(".")[0]
CLASS = "class"
"""Key that names a class where the declared type does not: "module:name"."""


def to_plain(value: Any) -> Any:
    """`value` as JSON has it: dataclasses become objects, tuples lists, paths and enums strings; classes are left out.

    Raises:
        TypeError: a value of another kind.
    """
    if is_dataclass(value) and not isinstance(value, type):
        plain = {f.name: to_plain(getattr(value, f.name)) for f in fields(value) if not f.name.startswith("_")}
        return {CLASS: f"{type(value).__module__}:{type(value).__qualname__}", **plain}
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    raise TypeError(f"a setting of type {type(value).__name__} cannot be stored")


def from_plain(kind: type[Settings], plain: Any) -> Settings:
    """An object of dataclass `kind` from what `to_plain` made of it.

    Fields that are missing get their defaults and fields that no longer exist are dropped, so that old runs load. The
    stored class is taken where it is a subclass of the declared one (a backbone of another package); otherwise the
    declared one, so that a class that was renamed does no harm.

    Raises:
        ValueError: not an object, a value its field refuses, or a stored class that cannot be imported.
    """
    if not isinstance(plain, dict):
        raise ValueError(f"expected the settings of {kind.__name__}, found {type(plain).__name__}")
    chosen = _stored_class(kind, plain.get(CLASS))
    hints = get_type_hints(chosen)
    known = {f.name for f in fields(chosen) if f.init and not f.name.startswith("_")}  # pyright: ignore[reportArgumentType]
    values = {name: _converted(hints[name], item) for name, item in plain.items() if name in known}
    try:
        return chosen(**values)
    except TypeError as error:
        raise ValueError(f"settings of {chosen.__name__}: {error}") from error


def differences(first: Any, second: Any, prefix: str = "") -> list[str]:
    """Dotted names of the settings in which two plain values differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        names = [name for name in {**first, **second} if name != CLASS]
        return [
            text
            for name in names
            for text in differences(first.get(name), second.get(name), f"{prefix}.{name}" if prefix else name)
        ]
    return [] if first == second else [prefix]


def _stored_class(declared: type, name: Any) -> type:
    # Only settings of networks (they have a _target) may be of another package; nothing else is imported.
    open_to_others = any(f.name == "_target" for f in fields(declared))  # pyright: ignore[reportArgumentType]
    if not open_to_others or not isinstance(name, str) or name == f"{declared.__module__}:{declared.__qualname__}":
        return declared
    module, _, qualified = name.partition(":")
    try:
        stored: Any = import_module(module)
        for part in qualified.split("."):
            stored = getattr(stored, part)
    except (ImportError, AttributeError) as error:
        if module.split(".")[0] == PACKAGE:
            return declared  # renamed since
        raise ValueError(f"the run's settings name {name}, which cannot be imported: {error}") from error
    return stored if isinstance(stored, type) and issubclass(stored, declared) and is_dataclass(stored) else declared


def _converted(hint: Any, value: Any) -> Any:
    """`value` as a field of type `hint` holds it."""
    if get_origin(hint) in (Union, types.UnionType):
        options = [option for option in get_args(hint) if option is not type(None)]
        return None if value is None else _converted(options[0], value) if len(options) == 1 else value
    if get_origin(hint) is tuple and isinstance(value, list):
        items = get_args(hint)
        each = items[:1] * len(value) if len(items) == 2 and items[1] is Ellipsis else items
        return tuple(_converted(item, entry) for item, entry in zip(each, value, strict=True))
    if isinstance(hint, type) and is_dataclass(hint):
        return from_plain(hint, value)
    if isinstance(hint, type) and issubclass(hint, (Enum, Path)):
        return hint(value)
    return value
