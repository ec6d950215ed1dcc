# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r prior-analysis`: what the λ of a trained network depends on, and whether that is what is claimed of it."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.collection import CollectionConfig
from ..data.sampler import SamplerConfig
from ..evaluation.prior_analysis import Thresholds

if TYPE_CHECKING:
    from ..data import BatchSampler
    from ..evaluation.prior_analysis import ItemAnalysis
    from ..evaluation.prior_findings import Finding
    from ..training.weights import TrainedNetwork

logger = logging.getLogger("ns_diff3r")


@dataclass
class PriorAnalysis:
    """Rank correlations of λ, over the Gaussians of every scene, with the number of context views that see a Gaussian,
    with how far test-time optimisation moves it, and with how wrong the prediction is where it is drawn."""

    data: Path
    """A scene, a folder of scenes, or "generated"."""
    weights: tuple[Path, ...]
    """A run folder, a checkpoint, or a weights file; several are seeds of one training."""
    output: Path | None = None
    """A .csv with one row per network, scene, image, attribute group and measure, and a .json beside it; default: the
    tables alone."""
    tto_steps: int | None = None
    """Steps of test-time optimisation; default: as the network was trained for."""
    scenes: tuple[str, ...] = ()
    """Names of the scenes; default: all."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """When a view sees a Gaussian."""
    random_heads: int = 10
    """Heads of random weights whose correlations are the measure of chance."""
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    """Split and image size."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Number and choice of context views."""
    threads: int = 0
    """Threads; 0: as torch chooses."""

    def run(self) -> int:
        """Analyse, print the tables, write the files."""
        import torch

        from ..data import BatchSampler, open_collection
        from ..evaluation.prior_findings import findings, strength_by_views
        from ..training.weights import open_weights
        from .chosen_scenes import chosen_scenes

        if self.threads:
            torch.set_num_threads(self.threads)
        networks = [open_weights(path) for path in self.weights]
        collection = open_collection(self.data, replace(self.collection, eval_scenes=()))
        sampler, chosen = BatchSampler(self.sampler, collection), chosen_scenes(collection, self.scenes)
        items = [(seed, item) for seed, net in enumerate(networks) for item in self._items(net, sampler, chosen)]
        found, by_views = findings(items), strength_by_views(item for _, item in items)
        self._print(found, by_views, [item for _, item in items])
        if self.output is not None:
            self._write(networks, items, found, by_views)
        return 0

    def _items(self, network: TrainedNetwork, sampler: BatchSampler, scenes: Sequence[int]) -> Iterator[ItemAnalysis]:
        from ..evaluation.prior_analysis import analyse_item

        fault, some = None, False
        for number, scene in enumerate(scenes, 1):
            name = sampler.collection.names[scene]
            print(f"{network.checkpoint.name}, scene {number} of {len(scenes)}: {name}", flush=True)
            for item in sampler.evaluation_items(scene):
                try:
                    batch = sampler.load(item)
                    yield analyse_item(network.module, batch, self.tto_steps, self.thresholds, self.random_heads)
                    some = True
                except ValueError as error:
                    fault = error
                    logger.warning("scene %s, images %s: left out: %s", name, list(item.targets), error)
        if not some and fault is not None:
            raise ValueError(f"no scene could be analysed; the last: {fault}") from fault

    def _print(
        self,
        found: Sequence[Finding],
        by_views: dict[str, dict[int, tuple[float, float]]],
        items: Sequence[ItemAnalysis],
    ) -> None:
        from ..evaluation.prior_findings import strength_range
        from .tables import print_table

        if all(finding.difference is None for finding in found):
            reasons = "; ".join(dict.fromkeys(finding.reason for finding in found))
            print(f"no correlation is defined: {reasons} (a network of the first stage has one λ for everything)")
            return
        compared = sum(item.num_compared for item in items) / sum(item.num_gaussians for item in items)
        print_table(
            f"{self.data}: rank correlation of λ over the Gaussians of a scene",
            [_table_row(finding, len(self.weights) > 1) for finding in found],
            f"{len({item.scene for item in items})} scenes, {len(self.weights)} network(s); mean over scenes, 95 % "
            f"bootstrap interval over scenes; chance: the range of the same mean for heads of random weights; of "
            f"{100 * compared:.1f} % of the Gaussians, those of which a context view has a pixel",
        )
        counts = sorted({count for of_group in by_views.values() for count in of_group})
        rows = []
        for group, of_group in by_views.items():
            if of_group:
                values = {f"by {count}": of_group.get(count, (0.0, None))[1] for count in counts}
                low, high = strength_range(items, group) or (None, None)
                rows.append({"group": group, **values, "5 %": low, "95 %": high})
        if rows:
            shares = next(of_group for of_group in by_views.values() if of_group)
            text = ", ".join(f"{100 * share:.1f} % by {count}" for count, (share, _) in shares.items())
            title = "λ (geometric mean) by the number of context views that see a Gaussian, and quantiles of all"
            print_table(title, rows, f"seen: {text}")

    def _write(
        self,
        networks: Sequence[TrainedNetwork],
        items: Sequence[tuple[int, ItemAnalysis]],
        found: Sequence[Finding],
        by_views: dict[str, dict[int, tuple[float, float]]],
    ) -> None:
        from ..evaluation.prior_findings import strength_range
        from .tables import write_json
        from .whole_files import whole_file

        assert self.output is not None
        rows = [row for seed, item in items for row in _csv_rows(str(self.weights[seed]), item)]
        with whole_file(self.output) as temporary, temporary.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        about = {
            "data": str(self.data),
            "weights": [{"path": str(net.checkpoint), "step": net.step, "sha256": net.sha256} for net in networks],
            "tto_steps": networks[0].module.config.evaluation_config(self.tto_steps).num_steps,
            "thresholds": asdict(self.thresholds),
            "random_heads": self.random_heads,
        }
        several = len(networks) > 1
        correlations = [_table_row(finding, several) | {"why": finding.measure.why} for finding in found]
        table = {
            group: {str(count): {"share": share, "strength": mean} for count, (share, mean) in of_group.items()}
            for group, of_group in by_views.items()
        }
        ranges = {group: strength_range([item for _, item in items], group) for group in by_views}
        beside = self.output.with_suffix(".json")
        write_json(beside, {**about, "correlations": correlations, "strength_by_views": table, "strength_5_95": ranges})
        print(f"wrote {self.output} and {beside.name}")


def _table_row(finding: Finding, several: bool) -> dict[str, Any]:
    difference, sign = finding.difference, {-1: "−", 0: "− or +", 1: "+"}[finding.measure.claimed]
    row: dict[str, Any] = {"λ with": finding.measure.title, "group": finding.group, "claimed": sign}
    if several:
        row["of each network"] = " ".join(f"{mean:+.2f}" for mean in finding.of_seeds)
    if difference is None:
        empty = {"correlation": None, "95 %": "", "chance": "", "scenes": 0}
        return {**row, **empty, "verdict": f"undefined: {finding.reason}"}
    figures = {
        "correlation": round(difference.mean, 4),
        "95 %": _range(difference.low, difference.high) if difference.num_scenes > 1 else "",
        "chance": "" if finding.chance is None else _range(*finding.chance),
        "scenes": difference.num_scenes,
    }
    return {**row, **figures, "verdict": finding.verdict}


def _range(low: float, high: float) -> str:
    return f"{low:+.3f} to {high:+.3f}"


def _csv_rows(weights: str, item: ItemAnalysis) -> Iterator[dict[str, Any]]:
    about = {"weights": weights, "scene": item.scene, "images": " ".join(map(str, item.images))}
    for (group, measure), found in item.correlations.items():
        yield {
            **about,
            "group": group,
            "measure": measure,
            "correlation": "" if found.value is None else f"{found.value:.6f}",
            "gaussians": found.pairs,
            "undefined": found.reason,
        }
