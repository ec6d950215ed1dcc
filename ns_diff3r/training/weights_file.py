# SPDX-License-Identifier: Apache-2.0
"""Trained networks as one small file: half-precision safetensors with settings and a model card in its header."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .run import RunSettings, load_weights
from .settings import from_plain, to_plain
from .step import TrainingModule

FORMAT = "ns_diff3r weights 1"
FOLDER = Path(__file__).parent.parent / "weights"
"""Of the files that come with the package."""
MAX_BYTES = 12 * 2**20
"""Largest file that may come with the package."""
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class ModelCard:
    """What a user must know of trained weights before using or passing them on.

    Attributes:
        name: by which they are asked for.
        data: what they were trained on.
        licence: of the weights, as an SPDX identifier.
        credits: whom the licences of the data ask to be named.
        command: that trained them.
        figures: what was measured of them, and on what.
    """

    name: str
    data: str
    licence: str
    command: str
    figures: str
    credits: str = ""

    def __post_init__(self) -> None:
        for field in ("name", "data", "licence", "command", "figures"):
            if not getattr(self, field).strip():
                raise ValueError(f"ModelCard.{field} is empty; weights without it must not be passed on")

    def markdown(self, settings: RunSettings, step: int, sha256: str) -> str:
        """The card as a page to lie beside the file."""
        lines = [f"# {self.name}", "", f"- data: {self.data}", f"- licence: {self.licence}"]
        lines += [f"- credits: {self.credits}"] if self.credits else []
        lines += [f"- steps: {step}", f"- seeds: weights {settings.training.seed}, views {settings.sampler.seed}, "]
        lines[-1] += f"generated scenes {settings.collection.generated.seed}"
        lines += [f"- command: `{self.command}`", f"- figures: {self.figures}", f"- sha256: {sha256}", ""]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class WeightsFile:
    """What a weights file holds; the network in evaluation mode on the CPU, parameters widened to float32."""

    settings: RunSettings
    module: TrainingModule
    step: int
    card: ModelCard


def write_weights(path: Path, settings: RunSettings, module: TrainingModule, step: int, card: ModelCard) -> None:
    """Write a network: parameters in half precision, buffers (D) as they are. Whole or not there.

    The path of the training data does not go into the file.

    Raises:
        ValueError: a parameter that is not finite, or not within the range of half precision; names it.
        OSError: the file cannot be written.
    """
    from safetensors.torch import save_file

    parameters = dict(module.named_parameters())
    tensors: dict[str, Tensor] = {}
    for name, value in module.state_dict().items():
        value = value.detach().cpu()
        if name in parameters and value.is_floating_point():
            value = value.half()
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{path}: {name} cannot be stored: not finite, or too large for half precision")
        tensors[name] = value.contiguous()
    kept = replace(settings, data=Path(settings.data.name), collection=_without_paths(settings), weights=None)
    metadata = {
        "format": FORMAT,
        "settings": json.dumps(to_plain(kept)),
        "step": str(step),
        "card": json.dumps(asdict(card)),
    }
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata)
        temporary.chmod(0o644)  # safetensors lets its owner alone read it
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path}: cannot be written: {error.strerror or error}") from error


def _without_paths(settings: RunSettings) -> Any:
    return replace(settings.collection, generated=replace(settings.collection.generated, splats=None))


def is_weights_file(path: str | Path) -> bool:
    """Whether a file is one of `write_weights`; reads its header alone."""
    return _header(Path(path)).get("format") == FORMAT


def read_weights(path: str | Path) -> WeightsFile:
    """Read a file of `write_weights`; no code of it is run.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another format, a header that lacks something, weights that do not fit; names the file.
    """
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    header = _header(path)
    if header.get("format") != FORMAT:
        raise ValueError(f"{path}: not a weights file of ns-diff3r (its format is {header.get('format')!r})")
    try:
        settings = from_plain(RunSettings, json.loads(header["settings"]))
        card, step = ModelCard(**json.loads(header["card"])), int(header["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: broken header: {error}") from error
    module = settings.module()
    own = module.state_dict()
    state = {name: value.to(own[name].dtype) if name in own else value for name, value in load_file(path).items()}
    load_weights(module, state, str(path))
    return WeightsFile(settings, module.eval(), step, card)


def bundled_weights(folder: Path | None = None) -> list[Path]:
    """The files that come with the package, by name; [] if none does."""
    folder = FOLDER if folder is None else folder
    return sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []


def _header(path: Path) -> Mapping[str, str]:
    from safetensors import SafetensorError, safe_open

    if path.suffix != SUFFIX or not path.is_file():
        return {}
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}
