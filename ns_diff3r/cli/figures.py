# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r figures`: pictures before and after optimisation, maps of λ, and curves along the optimisation."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data.collection import CollectionConfig
from ..data.sampler import SamplerConfig
from ..evaluation.curves import parse_prior

if TYPE_CHECKING:
    from ..data import BatchSampler, SceneBatch
    from ..training.weights import TrainedNetwork

logger = logging.getLogger("ns_diff3r")

Part = Literal["strips", "maps", "curves"]
Group = Literal["means", "quats", "scales", "opacities", "sh0", "shN"]
SETTINGS_FILE = "figures.json"


@dataclass
class Figures:
    """Pictures and curves of trained networks, scene by scene; the same command goes on where it was stopped.

    OUTPUT/strips/SCENE.png: context, before, after and the photograph, a row for every network; OUTPUT/maps/SCENE.png:
    the photograph and λ of every attribute group, with a scale; OUTPUT/curves/SCENE.csv and .svg: PSNR of context and
    target views along the optimisation, and their means over all scenes as mean.csv, mean.svg and a table.
    """

    data: Path
    """A scene, a folder of scenes, or "generated"."""
    weights: tuple[str, ...]
    """NAME=PATH for every network: a run folder, a checkpoint, or a weights file."""
    output: Path = Path("outputs/figures")
    """Folder for the files."""
    parts: tuple[Part, ...] = ("strips", "maps", "curves")
    """What is made."""
    scenes: tuple[str, ...] = ()
    """Names of the scenes; default: all."""
    images: int = 1
    """Held-out images of a scene in its strips and maps; curves are means over all of them."""
    tto_steps: int | None = None
    """Steps of test-time optimisation for the strips; default: as each network was trained for."""
    curve_steps: int = 300
    """Steps of the curves."""
    priors: tuple[str, ...] = ("learned", "none")
    """Priors of the curves: "learned", "none", or one λ for everything."""
    rate_factor: float | None = None
    """Factor on the learning rates of the curves; default: as each network was trained with."""
    groups: tuple[Group, ...] = ("means", "quats", "scales", "opacities", "sh0", "shN")
    """Attribute groups whose λ is mapped."""
    min_height: int = 128
    """Pixels of the height of an image in a picture; smaller ones are enlarged in whole steps."""
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    """Split and image size."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Number and choice of context views."""
    threads: int = 0
    """Threads; 0: as torch chooses."""

    def run(self) -> int:
        """Make what is missing, scene by scene, then the means."""
        import torch

        from ..data import BatchSampler, open_collection
        from .chosen_scenes import chosen_scenes
        from .figure_files import drawn_curves, drawn_maps, drawn_strips
        from .tables import make_folder

        self._check()
        if self.threads:
            torch.set_num_threads(self.threads)
        networks = self._networks()
        collection = open_collection(self.data, replace(self.collection, eval_scenes=()))
        sampler, scenes = BatchSampler(self.sampler, collection), chosen_scenes(collection, self.scenes)
        make_folder(self.output)
        self._keep_settings(networks)
        curve_options = (self.priors, self.curve_steps, self.rate_factor)
        makers: dict[str, tuple[str, Callable[[Path, list[SceneBatch]], None]]] = {
            "strips": (".png", partial(drawn_strips, networks, self.images, self.tto_steps, self.min_height)),
            "maps": (".png", partial(drawn_maps, networks, self.images, self.groups, self.min_height)),
            "curves": (".csv", partial(drawn_curves, networks, *curve_options)),
        }
        files: dict[str, list[Path]] = {part: [] for part in self.parts}
        for number, scene in enumerate(scenes, 1):
            name = collection.names[scene]
            wanted = {p: self.output / p / f"{name.replace('/', '_')}{makers[p][0]}" for p in self.parts}
            for part, path in wanted.items():
                files[part].append(path)
            missing = {part: path for part, path in wanted.items() if not path.is_file()}
            begin = time.perf_counter()
            for part, path in missing.items():
                self._make(path, makers[part][1], name, sampler, scene)
            spent = f"{time.perf_counter() - begin:.1f} s" if missing else "there already"
            print(f"scene {number} of {len(scenes)}, {name}: {', '.join(missing) or 'everything'}, {spent}", flush=True)
        made = [path for paths in files.values() for path in paths if path.is_file()]
        if not made:
            raise ValueError("no scene could be shown; the warnings above say why")
        curves = [path for path in files.get("curves", ()) if path.is_file()]
        if curves:
            self._means(curves)
        print(f"{self.output}: {len(made)} of {len(scenes) * len(self.parts)} files")
        return 0

    def _check(self) -> None:
        if self.images < 1 or self.curve_steps < 1 or self.min_height < 1 or not self.parts:
            raise ValueError("--images, --curve-steps, --min-height must be at least 1, and --parts name something")
        if self.rate_factor is not None and not 0.0 < self.rate_factor < float("inf"):
            raise ValueError(f"--rate-factor must be positive, not {self.rate_factor}")
        for prior in self.priors:
            parse_prior(prior)

    def _networks(self) -> dict[str, TrainedNetwork]:
        from ..training.weights import open_weights

        networks: dict[str, TrainedNetwork] = {}
        for entry in self.weights:
            name, separator, path = entry.partition("=")
            if not separator or not name or not path or name in networks:
                raise ValueError(f"--weights: {entry!r} is not NAME=PATH with a name of its own")
            networks[name] = open_weights(Path(path))
        return networks

    def _keep_settings(self, networks: Mapping[str, TrainedNetwork]) -> None:
        """Write what the figures are made with; ValueError if those in the folder were made otherwise."""
        from ..training.settings import to_plain
        from .tables import write_json

        wanted = {
            "data": str(self.data),
            "weights": {name: network.sha256 for name, network in networks.items()},
            **{name: getattr(self, name) for name in ("images", "tto_steps", "curve_steps", "rate_factor")},
            **{name: list(getattr(self, name)) for name in ("priors", "groups")},
            "min_height": self.min_height,
            "collection": to_plain(replace(self.collection, eval_scenes=())),
            "sampler": to_plain(self.sampler),
        }
        wanted = json.loads(json.dumps(wanted, default=str))
        path = self.output / SETTINGS_FILE
        if path.is_file():
            there = json.loads(path.read_text()).get("settings", {})
            changed = [name for name in wanted if there.get(name) != wanted[name]]
            if changed:
                raise ValueError(
                    f"{self.output} holds figures made with other settings ({', '.join(changed)}): give another "
                    "--output, or remove the folder"
                )
        write_json(path, {"settings": wanted})

    def _make(
        self, path: Path, make: Callable[[Path, list[SceneBatch]], None], name: str, sampler: BatchSampler, scene: int
    ) -> None:
        try:
            batches = [sampler.load(item) for item in sampler.evaluation_items(scene)]
            if not batches:
                raise ValueError("the evaluation index names no image of it")
            make(path, batches)
        except ValueError as error:
            logger.warning("scene %s: no %s: %s", name, path.parent.name, error)

    def _means(self, paths: Sequence[Path]) -> None:
        from ..evaluation.curves import curve_rows, mean_curve
        from .figure_files import draw_curves, read_curves, write_rows
        from .tables import print_table

        of_scenes: dict[tuple[str, str], list[Any]] = {}
        for path in paths:
            for (_, network, prior), curve in read_curves(path).items():
                # Scenes weigh alike, however many images they have.
                of_scenes.setdefault((network, prior), []).append(replace(curve, weight=1))
        means = {key: mean_curve(curves) for key, curves in of_scenes.items()}
        rows = [row for (network, prior), c in means.items() for row in curve_rows("mean", network, {prior: c})]
        write_rows(self.output / "curves" / "mean.csv", rows)
        title = f"mean of {len(paths)} scene{'s' if len(paths) > 1 else ''}"
        draw_curves(self.output / "curves" / "mean.svg", means, title)
        table = [_summary(network, prior, curve) for (network, prior), curve in means.items()]
        caption = "PSNR of the target views, mean over scenes; from 50: last minus the value after 50 steps"
        print_table(f"{self.data}: along the optimisation", table, caption)


def _summary(network: str, prior: str, curve: Any) -> dict[str, Any]:
    at = {point.step: point for point in curve.points}
    return {
        "network": network,
        "prior": prior,
        "before": at[0].target,
        "after 50": at[50].target if 50 in at else None,
        "last": curve.last.target,
        "best": curve.best.target,
        "best at": curve.best.step,
        "from 50": curve.last.target - at[50].target if 50 in at else None,
        "context last": curve.last.context,
    }
