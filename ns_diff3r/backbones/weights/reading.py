# SPDX-License-Identifier: Apache-2.0
"""Foreign files of weights, read without running what is in them."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .fetching import WeightsError

WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which files hold their weights, if not at the top."""


def read_weights(path: Path, prefixes: Sequence[str] = ()) -> dict[str, Tensor]:
    """Name → tensor, on the CPU.

    Args:
        path: a .safetensors file, or one of torch.save with tensors and plain values alone.
        prefixes: the first of them that all names begin with is removed.

    Raises:
        WeightsError: damaged, cut off, of another kind, or holding objects, whose loading could run code.
    """
    text = _first_text(path)
    if text is not None:
        raise WeightsError(
            f"{path}: no weights, but text that begins {text!r}. Where a download ends so, it brought a web page or "
            "git's pointer to a large file instead of the file: `ns-diff3r weights get` brings the file itself"
        )
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    for key in WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, dict) and inner:
            content = inner
    others = [name for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if others or not content:
        found = ", ".join(map(repr, others[:5])) if others else "nothing"
        raise WeightsError(f"{path}: no table of weights (it holds {found} besides tensors)")
    prefix = next((p for p in prefixes if all(name.startswith(p) for name in content)), "")
    return {name.removeprefix(prefix): value for name, value in content.items()}


def _first_text(path: Path) -> str | None:
    """How a file begins, if that is text; no file of weights begins with text."""
    with path.open("rb") as stream:
        start = stream.read(32)
    return start.decode() if start and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start) else None


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: not a whole .safetensors file ({error})") from error


def _torch_file(path: Path) -> Mapping[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle; what matters of it is an error
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error)
        if "weights_only" in reason.lower() or "unsupported" in reason.lower():
            raise WeightsError(
                f"{path}: refused. It holds more than tensors and plain values, and loading that could run code. If "
                "you trust its source, convert it to .safetensors where it comes from"
            ) from error
        raise WeightsError(f"{path}: cut off or damaged ({reason.splitlines()[0]})") from error
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error).split(". ")[0].splitlines() or [type(error).__name__]
        raise WeightsError(f"{path}: cut off, damaged, or not a file of torch.save ({reason[0]})") from error
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path}: no table of weights, but a {type(content).__name__}")
    return content
