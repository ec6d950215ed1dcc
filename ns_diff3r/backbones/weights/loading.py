# SPDX-License-Identifier: Apache-2.0
"""Published weights into a backbone: strictly, or with a report of what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..pretrained import PretrainedBackbone
from .fetching import WeightsError, fetch_weights
from .matching import compare_keys
from .reading import read_weights


@dataclass(frozen=True)
class LoadedWeights:
    """Which weights a backbone holds.

    Attributes:
        reference: as it was asked for; of a file, its absolute path.
        path: the file.
        sha256: of the file, in hexadecimal.
        random: prefixes of the parts that the file has not, and that stay random.
    """

    reference: str
    path: Path
    sha256: str
    random: tuple[str, ...] = ()


def load_published_weights(
    backbone: PretrainedBackbone,
    reference: str,
    sha256: str | None = None,
    say: Callable[[str], None] = print,
) -> LoadedWeights:
    """Fetch a file and load it. Every name and shape must agree, but for whole parts that a backbone may begin without.

    Args:
        backbone: whose weights are replaced.
        reference, sha256, say: as `fetch_weights` takes them.

    Raises:
        WeightsError: the file cannot be had or read, or does not fit; the message says of which settings it is.
    """
    path, digest = fetch_weights(reference, sha256, say)
    state = read_weights(path, backbone.weights_prefixes)
    random = load_weights_strictly(backbone, state, str(path))
    for prefix in random:
        say(f"{path}: has no {prefix.rstrip('.')}; that part begins with random weights")
    say(f"weights of {path.name}, SHA-256 {digest}")
    if Path(reference).expanduser().is_file():
        reference = str(path.resolve())
    return LoadedWeights(reference, path, digest, random)


def load_weights_strictly(backbone: PretrainedBackbone, state: dict[str, Tensor], source: str) -> tuple[str, ...]:
    """Load a state dict with official keys; returns the optional parts that it lacks.

    Raises:
        WeightsError: it does not fit.
    """
    absent = check_fit(backbone, {name: tuple(value.shape) for name, value in state.items()}, source)
    check_finite(state, source)
    backbone.network.load_state_dict(state, strict=not absent)
    return absent


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise WeightsError where weights hold a NaN or an infinity."""
    not_finite = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if not_finite:
        raise WeightsError(f"{source}: not finite in {len(not_finite)} of its tensors, such as {not_finite[0]}")


def check_fit(backbone: PretrainedBackbone, shapes: Mapping[str, tuple[int, ...]], source: str) -> tuple[str, ...]:
    """Compare names and shapes of a state dict with a backbone, which may be on the meta device.

    Returns:
        Prefixes of the optional parts that the state dict lacks as a whole.

    Raises:
        WeightsError: it does not fit.
    """
    from .recognising import network_of  # which knows every backbone, and these know this

    own = {name: tuple(value.shape) for name, value in backbone.network.state_dict().items()}
    absent = tuple(prefix for prefix in backbone.optional_parts if not any(name.startswith(prefix) for name in shapes))
    needed = {name: shape for name, shape in own.items() if not name.startswith(absent or ("\0",))}
    report = compare_keys(shapes, needed)
    if not report.fits:
        found = backbone.identify(shapes)
        if found is None:
            advice = f"the weights are of {network_of(shapes) or 'another network'}"
        elif found == backbone.describe():
            advice = "the file is damaged or of another version"
        else:
            advice = f"the file is of {found}; these settings are of {backbone.describe()}"
        raise WeightsError(f"{source} does not fit: {advice}\n  {report}")
    return absent
