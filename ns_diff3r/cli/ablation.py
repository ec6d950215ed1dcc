# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r ablation`: does training through test-time optimisation pay, row by row, on scenes never trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.collection import CollectionConfig
from ..data.sampler import SamplerConfig
from ..evaluation.corruptions import CorruptionName

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
    method), uniform, adjoint, truncated, first_order, metagrad, small (the full method with a smaller network); a key
    given several times has several seeds."""
    dev_scenes: tuple[str, ...]
    """Names of the scenes that settings are tuned on; all others are measured."""
    output: Path = Path("outputs/ablation.csv")
    """One line per row, seed, scene, image and number of steps."""
    rates: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    """Factors on the learning rates of test-time optimisation to choose from."""
    steps: int = 50
    """Steps at which rows are tuned and compared."""
    early_steps: tuple[int, ...] = (10, 25)
    """Further numbers of steps that early stopping may choose."""
    priors: tuple[float, ...] = (0.1, 1.0, 10.0)
    """λ to choose from where one number is the prior."""
    curve_steps: tuple[int, ...] = (0,)
    """Further numbers of steps that every row is measured at, with the rate that was tuned; several give tables of the
    way there too, at equal steps and at equal seconds."""
    corruptions: tuple[CorruptionName, ...] = ()
    """What else is done to the context, to see what every row then loses; nothing is tuned for it."""
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
            for seed, module in enumerate(modules):
                for scene in measured:
                    steps = tuple(dict.fromkeys((*self.curve_steps, self.steps, setting.steps)))
                    self._measure(ledger, "test", module, sampler, scene, row, seed, setting, steps)
                    for name in self.corruptions:
                        self._measure(ledger, name, module, sampler, scene, row, seed, setting)
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
        at: tuple[int, ...] = (),
    ) -> list[float]:
        """PSNR of a scene's images after the steps of the setting, from the ledger or measured now, also at others."""
        from ..evaluation.ablation import row_figures
        from ..evaluation.corruptions import CORRUPTIONS

        keys = {n: ledger.key(phase, row, seed, scene, replace(setting, steps=n)) for n in (*at, setting.steps)}
        missing = [steps for steps, key in keys.items() if not ledger.known(key)]
        if missing:
            corruption: CorruptionName | None = next((name for name in CORRUPTIONS if name == phase), None)
            index = sampler.collection.names.index(scene)
            for steps, figures in row_figures(module, sampler, index, row, setting, missing, corruption).items():
                ledger.add(keys[steps], figures)
        return ledger.known(keys[setting.steps])

    def _compare(self, ledger: Ledger, chosen: Mapping[Row, Setting]) -> None:
        from .tables import print_table

        baseline = next(row for row in chosen if row.name == self.baseline)
        note = f"differences to {self.baseline!r}, 95 % bootstrap over scenes and seeds"
        print_table(f"{self.data}: ablation", _test_rows(ledger, chosen, baseline), note)
        counts = sorted({*self.curve_steps, self.steps})
        if len(counts) > 2:
            by_steps, by_seconds = _curve_rows(ledger, chosen, baseline, counts)
            print_table(f"{self.data}: PSNR after steps", by_steps, "at the learning rate tuned for each row")
            seconds = f"seconds that {self.baseline!r} had needed for these steps, without the prediction's"
            print_table(f"{self.data}: PSNR after equal seconds", by_seconds, seconds)
        for name in self.corruptions:
            title = f"{self.data}: what {name} in the context costs (dB)"
            print_table(title, _corrupted_rows(ledger, chosen, baseline, name), note)


def _test_rows(ledger: Ledger, chosen: Mapping[Row, Setting], baseline: Row) -> list[dict[str, Any]]:
    """A line of the table for each row: figures, and the difference to the baseline."""
    cells = {row: ledger.cells("test", row, setting) for row, setting in chosen.items()}
    table = []
    for row, setting in chosen.items():
        found = cells[row]
        line: dict[str, Any] = {"row": row.name, "seeds": len({seed for _, seed in found})}
        line |= {"rate": setting.rate, "steps": setting.steps, "PSNR": _mean(found.values())}
        before = ledger.images("test", row, replace(setting, steps=0))
        after = ledger.images("test", row, setting)
        raised = [after[image] > value for image, value in before.items()]
        line["raised by TTO"] = f"{sum(raised)} of {len(raised)}" if raised else None
        table.append(line | _difference(found, cells[baseline], row == baseline))
    return table


def _curve_rows(
    ledger: Ledger, chosen: Mapping[Row, Setting], baseline: Row, counts: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A line for each row in the tables of equal steps and of equal seconds; rows that tune their steps have none."""
    from ..evaluation.ablation_curves import after_seconds, after_steps, image_curves, mean_seconds

    curves = {r: image_curves(ledger, r, s, counts) for r, s in chosen.items() if not r.stops_early or r == baseline}
    budgets = mean_seconds(curves[baseline])
    by_steps, by_seconds = [], []
    for row, found in curves.items():
        values = after_steps(found)
        peak = max(range(len(values)), key=values.__getitem__)
        line: dict[str, Any] = {"row": row.name} | dict(zip(map(str, counts), values, strict=True))
        by_steps.append(line | {"peak at": counts[peak], "last - peak": values[-1] - values[peak]})
        names = [f"{seconds:.2f} s ({count})" for seconds, count in zip(budgets, counts, strict=True)]
        by_seconds.append({"row": row.name} | dict(zip(names, after_seconds(found, budgets), strict=True)))
    return by_steps, by_seconds


def _corrupted_rows(
    ledger: Ledger, chosen: Mapping[Row, Setting], baseline: Row, name: CorruptionName
) -> list[dict[str, Any]]:
    """A line for each row: PSNR with and without the corruption, and what is lost compared with the baseline's loss."""
    lost = {}
    for row, setting in chosen.items():
        clean, changed = ledger.cells("test", row, setting), ledger.cells(name, row, setting)
        lost[row] = {cell: clean[cell] - value for cell, value in changed.items()}
    return [
        {"row": row.name, "PSNR": _mean(ledger.cells(name, row, setting).values()), "lost": _mean(lost[row].values())}
        | _difference(lost[row], lost[baseline], row == baseline)
        for row, setting in chosen.items()
    ]


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _difference(cells: Cells, baseline: Cells, is_baseline: bool) -> dict[str, Any]:
    from ..evaluation.paired import paired_difference

    if is_baseline:
        return {"difference": None, "95 %": None, "larger": None}
    result = paired_difference(cells, _for_all_seeds(baseline, cells))
    interval = f"{result.low:+.3f} to {result.high:+.3f}"
    return {"difference": result.mean, "95 %": interval, "larger": result.wins}


def _for_all_seeds(baseline: Cells, other: Cells) -> Cells:
    """The baseline's figures; of a single seed, for every seed of the other: all rows begin with that one file."""
    if len({seed for _, seed in baseline}) > 1:
        return baseline
    figures = {scene: figure for (scene, _), figure in baseline.items()}
    return {(scene, seed): figures[scene] for scene, seed in other if scene in figures}
