# SPDX-License-Identifier: Apache-2.0
"""Trained networks from where runs leave them: a run of `ns-diff3r fit`, a run of `ns-train`, or one checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from ..backbones import CompactBackbone, CompactConfig
from ..backbones.weights.catalogue import find_published
from ..backbones.weights.fetching import fetch_weights
from ..backbones.weights.recognising import config_of_weights
from ..data import CollectionConfig
from .checkpoint import last_complete_checkpoint, load_checkpoint
from .config import TrainingConfig
from .published import begin_with_published_weights
from .run import FORMAT, RunSettings, load_weights
from .settings import from_plain
from .stages import StageConfig
from .step import TrainingModule
from .weights_file import bundled_weights, is_weights_file, read_weights

CHECKPOINT_FOLDERS = ("checkpoints", "nerfstudio_models")
SETTINGS_FILE = "settings.json"
PIPELINE_PREFIX = "_model.core."
"""Of the trained weights in a checkpoint of nerfstudio's pipeline."""


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network and what it was trained with.

    Attributes:
        settings: of the run; its data need not exist any more.
        module: network, test-time optimisation with its D, and loss; in evaluation mode, on the CPU.
        step: training steps taken.
        checkpoint: the file.
        sha256: of that file, in hexadecimal.
    """

    settings: RunSettings
    module: TrainingModule
    step: int
    checkpoint: Path
    sha256: str


def open_weights(path: str | Path) -> TrainedNetwork:
    """Open the weights of a run folder (its last complete checkpoint), of a checkpoint in one, of a file of
    `write_weights`, or those of a name that come with the package. No code of it is run.

    Settings are read from the checkpoint (`ns-diff3r fit`), or from settings.json beside the checkpoint's folder
    (`ns-train`).

    Published weights of a backbone (a file, or a name that `ns-diff3r weights list` shows) are opened as a network of
    which nothing has been trained here.

    Raises:
        FileNotFoundError: nothing there, or no complete checkpoint.
        ValueError: broken files, a checkpoint of another method, weights that do not fit.
    """
    path = bundled_or_path(path)
    if is_weights_file(path):  # first: to others every .safetensors is a published file
        found = read_weights(Path(path))
        return TrainedNetwork(found.settings, found.module, found.step, Path(path), sha256_of(Path(path)))
    if is_published(path):
        return open_published(str(path))
    path = Path(path)
    checkpoint = path if path.is_file() else _checkpoint_in(path)
    state = load_checkpoint(checkpoint)
    if state.get("format") == FORMAT:
        settings, weights = json.loads(state["settings"]), state["module"]
    elif "pipeline" in state:
        settings, weights = _settings_beside(checkpoint), _core_weights(state["pipeline"])
    else:
        raise ValueError(
            f"{checkpoint}: a checkpoint of another method (it holds {', '.join(map(str, list(state)[:6]))})"
        )
    run = from_plain(RunSettings, settings)
    module = run.module()
    load_weights(module, weights, str(checkpoint))
    return TrainedNetwork(run, module.eval(), int(state["step"]), checkpoint, sha256_of(checkpoint))


def at_working_size(network: TrainedNetwork, longest: int) -> TrainedNetwork:
    """The same network, which sees photographs reduced to `longest` pixels; see `CompactConfig.working_size`.

    Raises:
        ValueError: a backbone that has no such setting, or a size that it refuses.
    """
    config, backbone = network.settings.backbone, network.module.network.backbone
    if not isinstance(config, CompactConfig) or not isinstance(backbone, CompactBackbone):
        raise ValueError(
            f"{type(config).__name__} sees photographs at the size that test-time optimisation does; only the compact "
            "backbone has a size of its own"
        )
    config = replace(config, working_size=longest)
    backbone.config = config
    return replace(network, settings=replace(network.settings, backbone=config))


def bundled_or_path(reference: str | Path) -> Path:
    """What `--weights` means: a path that exists, else the file of that name that comes with the package, else the path
    as it is."""
    path = Path(reference)
    if path.exists():
        return path
    return next((file for file in bundled_weights() if file.stem == str(reference)), path)


def is_published(path: str | Path) -> bool:
    """Whether this means published weights rather than a run of ours."""
    suffix = Path(path).suffix
    return find_published(str(path)) is not None or suffix in (".safetensors", ".pth")


def open_published(reference: str) -> TrainedNetwork:
    """Published weights as a network with default settings of training; its λ is the same everywhere.

    Raises:
        ValueError: weights that cannot be had or read, or of no network that is known here.
    """
    path, digest = fetch_weights(reference)
    config = config_of_weights(path)
    config = replace(config, checkpoint=reference, checkpoint_sha256=digest)
    training = TrainingConfig(stages=StageConfig(pretrain_fraction=0.0))
    collection = CollectionConfig(max_size=config.usual_size())
    settings = RunSettings(Path(), config, collection=collection, training=training)
    module = settings.module()
    begin_with_published_weights(module.network, training)
    return TrainedNetwork(settings, module.eval(), 0, path, digest)


def _checkpoint_in(path: Path) -> Path:
    if not path.is_dir():
        names = ", ".join(file.stem for file in bundled_weights()) or "none"
        raise FileNotFoundError(
            f"{path}: no such file or folder; weights are a run folder, a checkpoint in one, a weights file, or the "
            f"name of some that come with the package ({names})"
        )
    for folder in (*(path / name for name in CHECKPOINT_FOLDERS), path):
        found = last_complete_checkpoint(folder)
        if found is not None:
            return found
    raise FileNotFoundError(f"{path}: no complete checkpoint (step-*.ckpt) in this folder or its checkpoint folder")


def _settings_beside(checkpoint: Path) -> object:
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        file = folder / SETTINGS_FILE
        if file.is_file():
            try:
                return json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{file}: broken: {error}") from error
    raise FileNotFoundError(
        f"{checkpoint}: there is no {SETTINGS_FILE} beside it, which ns-train diff3r writes; is it of another method?"
    )


def _core_weights(pipeline: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our module's weights from those of nerfstudio's pipeline, with or without DistributedDataParallel's prefixes."""
    weights = {}
    for key, value in pipeline.items():
        name = key.removeprefix("module.").replace("_model.module.", "_model.", 1)
        if name.startswith(PIPELINE_PREFIX):
            weights[name.removeprefix(PIPELINE_PREFIX)] = value
    return weights


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; read in pieces."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
