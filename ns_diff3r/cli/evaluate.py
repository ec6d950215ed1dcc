# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r evaluate`: a trained network on the held-out images of scenes it need not have seen."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..backbones.compact import CompactConfig
from ..data.collection import CollectionConfig
from ..data.sampler import SamplerConfig

if TYPE_CHECKING:
    from ..evaluation.evaluate import Evaluation
    from ..training.weights import TrainedNetwork


@dataclass
class Evaluate:
    """Reconstruct scenes from a few of their images with a trained network, and judge it on images held out."""

    data: Path
    """A scene, a folder of scenes, or "generated"."""
    weights: Path | None = None
    """A run folder, a checkpoint, or a weights file; default: the network of `backbone` as it is before training."""
    output: Path | None = None
    """A .csv with one row per image, and a .json beside it; default: the table alone."""
    tto_steps: int | None = None
    """Steps of test-time optimisation, 0: none; default: as the network was trained for."""
    scenes: tuple[str, ...] = ()
    """Names of the scenes to judge; default: all."""
    backbone: CompactConfig = field(default_factory=CompactConfig)
    """The network, where there are no weights."""
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    """Split and image size."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Number and choice of context views."""
    lpips_metric: Literal["auto", "on", "off"] = "auto"
    """LPIPS: where its weights are found, demanded, or not at all."""
    threads: int = 0
    """Threads; 0: as torch chooses."""

    def run(self) -> int:
        """Evaluate, print the table, write the files."""
        import torch

        from ..data import BatchSampler, open_collection
        from ..evaluation.evaluate import evaluate
        from ..evaluation.metrics import ImageMetrics
        from ..evaluation.reports import table_rows
        from .chosen_scenes import chosen_scenes
        from .tables import print_table

        if self.threads:
            torch.set_num_threads(self.threads)
        network = self._network()
        collection = open_collection(self.data, replace(self.collection, eval_scenes=()))
        chosen = chosen_scenes(collection, self.scenes)
        metrics = ImageMetrics.find(self.lpips_metric)
        result = evaluate(network.module, BatchSampler(self.sampler, collection), metrics, chosen, self.tto_steps)
        for note in result.notes:
            print(f"note: {note}")
        steps = network.module.config.evaluation_config(self.tto_steps).num_steps
        print_table(f"{self.data}: held-out images", table_rows(result), f"{steps} TTO steps; {self._source(network)}")
        if self.output is not None:
            self._write(result, steps, network)
        return 0

    def _network(self) -> TrainedNetwork:
        from ..training.config import TrainingConfig
        from ..training.run import RunSettings
        from ..training.weights import TrainedNetwork, open_weights

        if self.weights is not None:
            return open_weights(self.weights)
        from ..backbones.uncertainty import UncertaintyHeadConfig

        settings = RunSettings(self.data, self.backbone, UncertaintyHeadConfig(), training=TrainingConfig())
        return TrainedNetwork(settings, settings.module().eval(), 0, Path(), "")

    def _source(self, network: TrainedNetwork) -> str:
        if self.weights is None:
            return "the network before training"
        return f"{network.checkpoint} after {network.step} steps, sha256 {network.sha256[:16]}"

    def _write(self, result: Evaluation, steps: int, network: TrainedNetwork) -> None:
        from .tables import write_json

        assert self.output is not None
        self.output.parent.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, Any]] = result.rows
        with self.output.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        about = {"data": str(self.data), "tto_steps": steps, "weights": self._source(network)}
        write_json(self.output.with_suffix(".json"), {**about, **result.to_json()})
        print(f"wrote {self.output} and {self.output.with_suffix('.json').name}")
