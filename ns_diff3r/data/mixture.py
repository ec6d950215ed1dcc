# SPDX-License-Identifier: Apache-2.0
"""The file that names several sources of scenes, and what it says of each (docs/data_sources.md has the format)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import SceneError
from .generated_settings import GENERATED, GeneratedConfig

SOURCES = "sources"
YAML = (".yaml", ".yml")
TRANSFORMS = "transforms.json"


@dataclass(frozen=True)
class SourceConfig:
    """One source of a mixture.

    Attributes:
        name: before the names of its scenes, "name/scene".
        path: whatever `--data` may be, but for another mixture; relative to the file.
        weight: how often its scenes come in training, by proportion.
        scale: its unit of length becomes this many of the mixture's; of poses, sparse points, near and far.
        near, far: depth range of its views in its own unit; default: as the collection's settings say.
        selection: how its views are chosen, as the sampler's setting; default: as that says.
        baseline, baseline_end: range of the baseline of a step, and after the warm-up (default: the same).
        gap, gap_end: range of the gap in the sequence of images, and after the warm-up (default: the same).
        eval_scenes: names, within the source, of scenes that are held out as a whole.
        evaluate: whether its held-out images are evaluated.
        generated: settings of generated scenes, for the path "generated".
        dataparser: name of nerfstudio's dataparser that reads `path`; wildcards in its last part mean several scenes.
        options: settings of that dataparser.
        where: the file and the place in it, for messages.
    """

    name: str
    path: Path
    weight: float = 1.0
    scale: float = 1.0
    near: float | None = None
    far: float | None = None
    selection: str | None = None
    baseline: tuple[float, float] | None = None
    baseline_end: tuple[float, float] | None = None
    gap: tuple[int, int] | None = None
    gap_end: tuple[int, int] | None = None
    eval_scenes: tuple[str, ...] = ()
    evaluate: bool = True
    generated: GeneratedConfig | None = None
    dataparser: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""


def is_mixture(path: Path) -> bool:
    """Whether a file is one: a .yaml, or a .json that names sources."""
    if not path.is_file() or path.name == TRANSFORMS:
        return False
    if path.suffix.lower() in YAML:
        return True
    if path.suffix.lower() != ".json":
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and SOURCES in content


def mixture_digest(path: Path) -> str | None:
    """SHA-256 of a mixture's file, in hexadecimal; None for data of another kind."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if is_mixture(path) else None


def read_mixture(path: Path) -> tuple[SourceConfig, ...]:
    """The sources that a file names.

    Raises:
        SceneError: unreadable, or a field that is missing, unknown, or makes no sense; names the file and the field.
    """
    content = _parsed(path)
    if not isinstance(content, dict) or not isinstance(content.get(SOURCES), list) or not content[SOURCES]:
        raise SceneError(f"{path}: not a mixture of data sources: it needs a list {SOURCES!r} with one entry or more")
    unknown = [key for key in content if key != SOURCES]
    if unknown:
        raise SceneError(f"{path}: unknown field {unknown[0]!r}; there is {SOURCES!r} alone")
    sources = tuple(_source(path, number, entry) for number, entry in enumerate(content[SOURCES]))
    for number, source in enumerate(sources):
        if source.name in [other.name for other in sources[:number]]:
            raise SceneError(f"{source.where}.name: two sources are called {source.name!r}")
    if not any(source.weight > 0 for source in sources):
        raise SceneError(f"{path}: {SOURCES}: every weight is 0, no scene is left for training")
    return sources


def _parsed(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() not in YAML:
            return json.loads(text)
    except (OSError, ValueError) as error:
        raise SceneError(f"{path}: not a readable mixture of data sources ({error})") from error
    try:
        import yaml
    except ImportError:
        raise SceneError(f"{path}: reading .yaml needs the package pyyaml; or write it as .json") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SceneError(f"{path}: not a readable mixture of data sources ({error})") from error


def _source(path: Path, number: int, entry: Any) -> SourceConfig:
    where = f"{path}: {SOURCES}[{number}]"
    if not isinstance(entry, dict):
        raise SceneError(f"{where}: an object with a path is needed, not {entry!r}")
    values: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in READERS:
            raise SceneError(f"{where}: unknown field {key!r}; the fields are {', '.join(READERS)}")
        try:
            values[key] = READERS[key](value)
        except (TypeError, ValueError) as error:
            raise SceneError(f"{where}.{key}: {error}") from None
    if "path" not in values:
        raise SceneError(f"{where}.path: missing; it names a scene, a folder of scenes, of chunks, or {GENERATED!r}")
    for name in ("baseline", "gap"):
        if f"{name}_end" in values and name not in values:
            raise SceneError(f"{where}.{name}_end: the range after the warm-up from {name!r}, which is not given")
    if values.get("options") and "dataparser" not in values:
        raise SceneError(f"{where}.options: are those of a dataparser, which is not given")
    if values.get("near") is not None and values.get("far") is not None and values["near"] >= values["far"]:
        raise SceneError(f"{where}.far: must be more than near, got {values['near']} and {values['far']}")
    given = Path(values.pop("path"))
    is_made = given == Path(GENERATED) and "dataparser" not in values
    if "generated" in values and not is_made:
        raise SceneError(f"{where}.generated: settings of the path {GENERATED!r}, but the path is {str(given)!r}")
    if is_made:
        values.setdefault("generated", GeneratedConfig())
    values.setdefault("name", given.name or str(number))
    return SourceConfig(path=given if is_made else path.parent / given, where=where, **values)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a text that is not empty, got {value!r}")
    return value


def _name(value: Any) -> str:
    if "/" in _text(value):
        raise ValueError(f"must not hold a slash, got {value!r}")
    return value


def _number(least: float, *, least_itself: bool = False) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        ok = not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)
        if not ok or value < least or (value == least and not least_itself):
            raise ValueError(f"must be a number {'of at least' if least_itself else 'above'} {least:g}, got {value!r}")
        return float(value)

    return read


def _range(kind: type) -> Callable[[Any], tuple[Any, Any]]:
    def read(value: Any) -> tuple[Any, Any]:
        kinds = (int,) if kind is int else (int, float)
        pair = isinstance(value, list) and len(value) == 2 and all(type(v) in kinds for v in value)
        if not pair or not 0 <= value[0] <= value[1] < math.inf:
            raise ValueError(f"must be [low, high] with 0 <= low <= high{', whole' * (kind is int)}, got {value!r}")
        return kind(value[0]), kind(value[1])

    return read


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}, got {value!r}")
        return value

    return read


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, got {value!r}")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of names, got {value!r}")
    return tuple(_text(item) for item in value)


def _generated(value: Any) -> GeneratedConfig:
    names = {f.name: f.default for f in fields(GeneratedConfig) if f.default is not MISSING}
    if not isinstance(value, dict):
        raise ValueError(f"must be an object, got {value!r}")
    for key, item in value.items():
        if key not in names:
            raise ValueError(f"unknown setting {key!r}; the settings are {', '.join(names)}")
        expected = {tuple: (list,), float: (int, float), type(None): (str, type(None))}
        if type(item) not in expected.get(type(names[key]), (type(names[key]),)):
            raise ValueError(f"{key}: got {item!r}, where the default is {names[key]!r}")
    kinds = {"kinds": tuple(value["kinds"])} if "kinds" in value else {}
    splats = {"splats": Path(value["splats"])} if value.get("splats") is not None else {}
    return GeneratedConfig(**{**value, **kinds, **splats})


def _options(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be an object of the dataparser's settings, got {value!r}")
    return value


READERS: dict[str, Callable[[Any], Any]] = {
    "name": _name,
    "path": _text,
    "weight": _number(0, least_itself=True),
    "scale": _number(0),
    "near": _number(0),
    "far": _number(0),
    "selection": _one_of("farthest", "nearest", "random", "bounded"),
    "baseline": _range(float),
    "baseline_end": _range(float),
    "gap": _range(int),
    "gap_end": _range(int),
    "eval_scenes": _names,
    "evaluate": _truth,
    "generated": _generated,
    "dataparser": _text,
    "options": _options,
}
"""Field of a source → what reads it; ValueError without the place."""
