# SPDX-License-Identifier: Apache-2.0
"""Files of weights: on this machine, or from a hub by huggingface_hub (progress, resume, cache)."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from .catalogue import PublishedFile, find_published

REFERENCE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+\.(?:safetensors|pth|pt|ckpt|bin))")
"""owner/name/file"""
EXTRA = "pip install 'ns-diff3r[weights]'"


class WeightsError(ValueError):
    """Weights that cannot be had, or that are not what was asked for. The message says what to do."""


def fetch_weights(reference: str, sha256: str | None = None, say: Callable[[str], None] = print) -> tuple[Path, str]:
    """The file that `reference` means, and its SHA-256.

    Args:
        reference: a path, a hub's "owner/name/file", or a name of the catalogue.
        sha256: expected digest or its first digits; None: what the catalogue knows.
        say: takes messages, such as the licence, which is shown once.

    Raises:
        WeightsError: no such file, no network, or another digest.
    """
    path = Path(reference).expanduser()
    known = find_published(reference)
    if not path.is_file():
        target = known.reference if known is not None else reference
        match = REFERENCE.fullmatch(target)
        if match is None or target.startswith((".", "/", "~")):
            raise WeightsError(
                f"{reference}: no such file, and neither a name that `ns-diff3r weights list` shows nor a hub's "
                "owner/name/file (.safetensors, .pth)"
            )
        path = _download(match.group(1), match.group(2))
    if known is not None:
        show_licence_once(known, say)
    digest = sha256_of(path)
    expected = (sha256 or (known.sha256 if known is not None else "")).lower()
    if not digest.startswith(expected):
        raise WeightsError(
            f"{path}: SHA-256 is {digest}, expected {expected}…: the file is damaged or another one. Remove it and get "
            "it again, or leave the digest out if you mean this file"
        )
    return path, digest


def _download(repository: str, file: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import HfHubHTTPError
    except ImportError as error:
        raise WeightsError(
            f"{repository}/{file} must be downloaded, for which huggingface_hub is needed ({EXTRA}). "
            + by_hand(repository, file)
        ) from error
    try:
        return Path(hf_hub_download(repository, file))
    except HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404):
            raise WeightsError(
                f"{repository}/{file}: the hub has no such file, or wants you to log in or to accept its terms first "
                f"(status {status}). {by_hand(repository, file)}"
            ) from error
        raise WeightsError(f"{repository}/{file}: {_first_line(error)}. {by_hand(repository, file)}") from error
    except Exception as error:  # connection errors have many types, by the version of the hub's client
        raise WeightsError(
            f"{repository}/{file} is not in the cache and cannot be downloaded ({_first_line(error)}). "
            + by_hand(repository, file)
        ) from error


def by_hand(repository: str, file: str) -> str:
    """What to do without network."""
    return (
        f"Without network: download https://huggingface.co/{repository}/resolve/main/{file} on another machine, copy "
        "it here, and give its path instead of the name (for ns-train: --pipeline.model.backbone.checkpoint PATH). A "
        "download that was cut off continues where it stopped when the same command is given again"
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def show_licence_once(file: PublishedFile, say: Callable[[str], None]) -> None:
    """Say under which terms weights are published, unless this user has been told before."""
    memory = _cache_folder() / "licences_shown.json"
    try:
        shown = json.loads(memory.read_text())
    except (OSError, ValueError):
        shown = []
    if file.reference in shown:
        return
    say(f"{file.reference}: the weights are not ours. Licence: {file.licence}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps(sorted({*shown, file.reference})))
    except OSError:
        pass  # then it is shown again


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ns_diff3r"


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
