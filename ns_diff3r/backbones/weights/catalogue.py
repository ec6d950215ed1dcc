# SPDX-License-Identifier: Apache-2.0
"""Weights that others have published, with their terms. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

DEPTHSPLAT, DEPTH_ANYTHING_3 = "depthsplat", "depth_anything_3"

_MIT = "MIT"
_FROM_NON_COMMERCIAL = (
    "MIT as published; trained from Depth Anything V2 Base or Large, whose weights are CC BY-NC 4.0 (non-commercial)"
)
_NON_COMMERCIAL = "CC BY-NC 4.0 (non-commercial)"
_APACHE = "Apache-2.0"
_CONTRADICTORY = "stated contradictorily by its authors (Apache-2.0 and CC BY-NC 4.0); take it as non-commercial"


@dataclass(frozen=True)
class PublishedFile:
    """One file of weights.

    Attributes:
        name: by which `ns-diff3r weights` calls it.
        backbone: DEPTHSPLAT or DEPTH_ANYTHING_3.
        repository: "owner/name" on the hub.
        file: within it.
        licence: of the weights.
        settings: of the backbone's config that the file is for.
        sha256: first digits, as far as the authors publish them; "" if they do not.
        trained: views and resolution.
    """

    name: str
    backbone: str
    repository: str
    file: str
    licence: str
    settings: tuple[tuple[str, str], ...]
    sha256: str = ""
    trained: str = ""

    @property
    def reference(self) -> str:
        """What the field `checkpoint` of a backbone takes."""
        return f"{self.repository}/{self.file}"

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"


def _depthsplat(size: str, recipe: str, data: str, trained: str, digits: str) -> PublishedFile:
    resolution, views = trained.split(", ")
    views = views.replace(" views", "")
    pattern = f"view{views}" if views == "2" else f"randview{views}"
    return PublishedFile(
        name=f"depthsplat-{size}-{data}-{resolution}",
        backbone=DEPTHSPLAT,
        repository="haofeixu/depthsplat",
        file=f"depthsplat-gs-{size}-{data}-{resolution}-{pattern}-{digits}.pth",
        licence=_MIT if size == "small" else _FROM_NON_COMMERCIAL,
        settings=(("size", size), ("recipe", recipe)),
        sha256=digits,
        trained=trained,
    )


def _depth_anything_3(size: str, repository: str, licence: str) -> PublishedFile:
    gaussians = "any views" if size == "giant" else "any views; no Gaussian head"
    return PublishedFile(
        name=repository.lower(),
        backbone=DEPTH_ANYTHING_3,
        repository=f"depth-anything/{repository}",
        file="model.safetensors",
        licence=licence,
        settings=(("size", size),),
        trained=gaussians,
    )


CATALOGUE: tuple[PublishedFile, ...] = (
    _depthsplat("small", "re10k", "re10k", "256x256, 2 views", "cfeab6b1"),
    _depthsplat("base", "re10k", "re10k", "256x256, 2 views", "ca7b6795"),
    _depthsplat("large", "re10k", "re10k", "256x256, 2 views", "e0f0f27a"),
    _depthsplat("base", "dl3dv", "dl3dv", "256x448, 2-6 views", "02c7b19d"),
    _depthsplat("base", "dl3dv", "re10k", "256x448, 2 views", "fea94f65"),
    _depthsplat("small", "dl3dv", "re10kdl3dv", "448x768, 4-10 views", "c08188db"),
    _depthsplat("base", "dl3dv", "re10kdl3dv", "448x768, 2-6 views", "f8ddd845"),
    _depth_anything_3("giant", "DA3-GIANT-1.1", _NON_COMMERCIAL),
    _depth_anything_3("giant", "DA3-GIANT", _NON_COMMERCIAL),
    _depth_anything_3("large", "DA3-LARGE-1.1", _CONTRADICTORY),
    _depth_anything_3("large", "DA3-LARGE", _NON_COMMERCIAL),
    _depth_anything_3("base", "DA3-BASE", _APACHE),
    _depth_anything_3("small", "DA3-SMALL", _APACHE),
)
"""For settings that several files are for, the first is the one that `official` means."""


def find_published(text: str) -> PublishedFile | None:
    """The file of a name, a reference "owner/name/file" or a file name; None if it is not in the catalogue."""
    base = text.rsplit("/", 1)[-1]
    exact = [file for file in CATALOGUE if text in (file.name, file.reference)]
    named = [file for file in CATALOGUE if file.file == base and file.backbone == DEPTHSPLAT]
    return next(iter(exact + named), None)


def official_for(backbone: str, **settings: str) -> PublishedFile | None:
    """The published file for a backbone's settings; None if there is none."""
    wanted = set(settings.items())
    return next((file for file in CATALOGUE if file.backbone == backbone and wanted == set(file.settings)), None)
