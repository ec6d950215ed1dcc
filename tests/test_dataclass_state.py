# SPDX-License-Identifier: Apache-2.0
"""Settings stored by an earlier version load into a class that has grown since."""

import pickle
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ns_diff3r.dataclass_state import DefaultsForMissingFields


@dataclass
class Inner(DefaultsForMissingFields):
    rate: float = 0.5


@dataclass
class Settings(DefaultsForMissingFields):
    required: int
    plain: int = 1
    inner: Inner = field(default_factory=Inner)
    names: list[str] = field(default_factory=lambda: ["a"])


@dataclass(frozen=True)
class Frozen(DefaultsForMissingFields):
    number: int = 3
    inner: Inner = field(default_factory=Inner)


def stored(cls: type, **state: object) -> Any:
    """What yaml and pickle do: an instance without its constructor, then its state."""
    instance: Any = object.__new__(cls)
    instance.__setstate__(state)
    return instance


def test_a_missing_field_gets_its_default():
    settings = stored(Settings, required=7)
    assert settings == Settings(required=7)


def test_every_object_gets_a_default_of_its_own():
    first, second = stored(Settings, required=0), stored(Settings, required=0)
    assert first.names is not second.names
    assert first.inner is not second.inner


def test_stored_values_win_over_defaults():
    settings = stored(Settings, required=7, plain=2, inner=Inner(0.1))
    assert settings == Settings(required=7, plain=2, inner=Inner(0.1))


def test_frozen_dataclasses_load_too():
    assert stored(Frozen, number=4) == Frozen(number=4)


def test_a_field_that_is_gone_does_not_stop_loading():
    settings = stored(Settings, required=7, gone=True)
    assert replace(settings, plain=3) == Settings(required=7, plain=3)


def test_a_field_without_a_default_stays_missing():
    """Nothing is invented: the error names the field where it is used."""
    with pytest.raises(AttributeError, match="required"):
        _ = stored(Settings).required


def test_pickles_go_round():
    settings = Settings(required=7, inner=Inner(0.2))
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert pickle.loads(pickle.dumps(Frozen(9))) == Frozen(9)
