# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r ablation`: does training through test-time optimisation pay, row by row, on scenes never trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.collection import CollectionConfig
from ..data.sampler import SamplerConfig

if TYPE_CHECKING:
    from ..data import BatchSampler
    from ..evaluation.ablation import Ledger, Row, Setting
    from ..evaluation.paired import Cells
    from ..training.step import TrainingModule


@dataclass
class Ablation:
    """Tune every row on development scenes, measure it on the others, and compare the rows pair by pair.

    Killed or stopped, the same command goes on with what its CSV lacks.
    """

    data: Path
    """A folder of scenes; none of them may have been trained on."""
    weights: tuple[str, ...]
    """KEY=PATH for each trained network: a run, a checkpoint or a weights file. Keys: plain, implicit (the full
    method), uniform, adjoint, truncated, first_order, metagrad; a key given several times has several seeds."""
    dev_scenes: tuple[str, ...]
    """Names of the scenes that settings are tuned on; all others are measured."""
    output: Path = Path("outputs/ablation.csv")
    """One line per row, seed, scene, image and number of steps."""
    rates: tuple[float, ...] = (4.0, 8.0, 16.0, 32.0)
    """Factors on the learning rates of test-time optimisation to choose from."""
    steps: int = 50
    """Steps at which rows are tuned and compared."""
    early_steps: tuple[int, ...] = (10, 25)
    """Further numbers of steps that early stopping may choose."""
    priors: tuple[float, ...] = (0.1, 1.0, 10.0)
    """λ to choose from where one number is the prior."""
    curve_steps: tuple[int, ...] = (0,)
    """Further numbers of steps that every row is measured at, with the rate that was tuned."""
    baseline: str = "plain"
    """Name of the row that the others are compared with."""
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    """Split and image size."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """Number and choice of context views."""
    threads: int = 0
    """Threads; 0: as torch chooses."""

    def run(self) -> int:
        """Tune, measure, compare."""
        import torch

        from ..data import BatchSampler, open_collection
        from ..evaluation.ablation import ROWS, Ledger
        from ..training.weights import open_weights

        if self.threads:
            torch.set_num_threads(self.threads)
        paths = self._paths()
        rows = [row for row in ROWS if row.weights in paths]
        if self.baseline not in [row.name for row in rows]:
            raise ValueError(
                f"--baseline: no row {self.baseline!r} with these weights; there are {[r.name for r in rows]}"
            )
        sampler = BatchSampler(self.sampler, open_collection(self.data, self.collection))
        names = sampler.collection.names
        unknown = [name for name in self.dev_scenes if name not in names]
        measured = [name for name in names if name not in self.dev_scenes]
        if unknown or not self.dev_scenes or not measured:
            raise ValueError(f"--dev-scenes must be some, not all, of {', '.join(names)}; got {list(self.dev_scenes)}")
        ledger, chosen = Ledger(self.output), {}
        for row in rows:
            modules = [open_weights(path).module for path in paths[row.weights]]
            setting = self._tuned(ledger, modules, sampler, row)
            for steps in dict.fromkeys((*self.curve_steps, setting.steps)):
                for seed, module in enumerate(modules):
                    for scene in measured:
                        self._measure(ledger, "test", module, sampler, scene, row, seed, replace(setting, steps=steps))
            print(f"{row.name}: rate {setting.rate:g}, {setting.steps} steps, prior {setting.prior or row.prior}")
            chosen[row] = setting
        self._compare(ledger, chosen)
        return 0

    def _paths(self) -> dict[str, list[Path]]:
        from ..evaluation.ablation import ROWS

        keys = list(dict.fromkeys(row.weights for row in ROWS))
        paths: dict[str, list[Path]] = {}
        for entry in self.weights:
            key, separator, path = entry.partition("=")
            if not separator or key not in keys:
                raise ValueError(f"--weights: {entry!r} is not KEY=PATH with a key among {', '.join(keys)}")
            paths.setdefault(key, []).append(Path(path))
        return paths

    def _tuned(self, ledger: Ledger, modules: Sequence[TrainingModule], sampler: BatchSampler, row: Row) -> Setting:
        """The best setting of a row on the development scenes: the highest mean PSNR over scenes, of the first seed."""
        from ..evaluation.ablation import candidates

        def score(setting: Setting) -> float:
            means = []
            for scene in self.dev_scenes:
                values = self._measure(ledger, "tuning", modules[0], sampler, scene, row, 0, setting)
                means.append(sum(values) / len(values))
            return sum(means) / len(means)

        return max(candidates(row, self.rates, self.steps, self.early_steps, self.priors), key=score)

    def _measure(
        self,
        ledger: Ledger,
        phase: str,
        module: TrainingModule,
        sampler: BatchSampler,
        scene: str,
        row: Row,
        seed: int,
        setting: Setting,
    ) -> list[float]:
        """PSNR of a scene's images, from the ledger or measured now."""
        from ..evaluation.ablation import row_figures

        key = ledger.key(phase, row, seed, scene, setting)
        if not ledger.known(key):
            ledger.add(key, row_figures(module, sampler, sampler.collection.names.index(scene), row, setting))
        return ledger.known(key)

    def _compare(self, ledger: Ledger, chosen: Mapping[Row, Setting]) -> None:
        from ..evaluation.paired import paired_difference
        from .tables import print_table

        cells = {row.name: ledger.cells("test", row, setting) for row, setting in chosen.items()}
        table: list[dict[str, Any]] = []
        for row, setting in chosen.items():
            found = cells[row.name]
            line: dict[str, Any] = {"row": row.name, "seeds": len({seed for _, seed in found})}
            line |= {"rate": setting.rate, "steps": setting.steps}
            line["PSNR"] = sum(found.values()) / len(found)
            if row.name == self.baseline:
                line |= {"difference": None, "95 %": None, "wins": None}
            else:
                result = paired_difference(found, _for_all_seeds(cells[self.baseline], found))
                interval = f"{result.low:+.3f} to {result.high:+.3f}"
                line |= {"difference": result.mean, "95 %": interval, "wins": result.wins}
            table.append(line)
        print_table(
            f"{self.data}: ablation", table, f"differences to {self.baseline!r}, bootstrap over scenes and seeds"
        )


def _for_all_seeds(baseline: Cells, other: Cells) -> Cells:
    """The baseline's figures; of a single seed, for every seed of the other: all rows begin with that one file."""
    if len({seed for _, seed in baseline}) > 1:
        return baseline
    figures = {scene: figure for (scene, _), figure in baseline.items()}
    return {(scene, seed): figures[scene] for scene, seed in other if scene in figures}
