# SPDX-License-Identifier: Apache-2.0
"""`ns-diff3r reproduce posed|unposed`: the paper's evaluations, row by row, beside the paper's numbers."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import tyro
from tyro.conf import subcommand

from ..evaluation.protocols.published import DataSet
from ..evaluation.protocols.settings import PosedProtocol, UnposedProtocol
from .devices import DeviceChoice, chosen_device

if TYPE_CHECKING:
    from ..evaluation.metrics import ImageMetrics
    from ..evaluation.protocols.rows import Prior, Row
    from ..evaluation.protocols.run import ProtocolRun
    from ..evaluation.protocols.tables import RowFigures
    from ..evaluation.protocols.views import ProtocolPlan


@dataclass
class Reproduction:
    """Options of both protocols."""

    data: Path
    """Test scenes: chunks (RealEstate10K, ACID, DL3DV as pixelSplat stores them), a scene, or a folder of scenes."""
    index: Path | None = None
    """Evaluation index: JSON, scene key → context and target frames; default: by the split."""
    rows: tuple[str, ...] = ()
    """NAME=WEIGHTS of networks to measure: a run folder, a checkpoint, a weights file, published weights (`ns-diff3r
    weights list`), or untrained:compact, untrained:depthsplat-small, untrained:da3-small. Rows with a name of the
    paper's table stand beside its numbers."""
    ply: tuple[str, ...] = ()
    """NAME=FOLDER of foreign Gaussians: FOLDER/SCENE.ply, and FOLDER/SCENE.json with cameras where they are in a world
    of their own (docs/reproduce.md)."""
    priors: tuple[str, ...] = ()
    """NAME=learned, none or a number: λ of a network's test-time optimisation; default: learned where training has
    reached its second stage, else none."""
    output: Path = Path("outputs/reproduce")
    """Folder for figures.csv (one line per row, scene and image), views.json, table.md, results.json and pictures. The
    same command goes on where it was stopped; further rows can be added."""
    scenes: tuple[str, ...] = ()
    """Names of the scenes to measure; default: all."""
    most_scenes: int = 0
    """Measure only so many, the first; 0: all."""
    whole_index: bool = False
    """An index that names scenes which the data lack is an error, not a note."""
    data_set: DataSet = "re10k"
    """Whose numbers of the paper stand beside the measured ones; own: none."""
    pictures: int = 8
    """Scenes of which picture strips are kept, the first; 0: none."""
    lpips_metric: Literal["auto", "on", "off"] = "auto"
    """LPIPS: where its weights are found, demanded, or not at all."""
    device: DeviceChoice = "auto"
    """Where networks and the renderer run."""
    threads: int = 0
    """Threads; 0: as torch chooses."""

    def measure(self, protocol: PosedProtocol) -> int:
        """Measure what the CSV lacks, print the table, write the files."""
        import torch

        from ..data import CollectionConfig, open_collection
        from ..data.evaluation_index import read_evaluation_index
        from ..evaluation.metrics import ImageMetrics
        from ..evaluation.protocols.run import ProtocolRun
        from ..evaluation.protocols.views import ProtocolPlan, choose_views
        from .reproduction_report import report
        from .tables import make_folder

        if self.threads:
            torch.set_num_threads(self.threads)
        device = chosen_device(self.device)
        make_folder(self.output)
        collection = open_collection(self.data, CollectionConfig(split=protocol.split))
        index = None if self.index is None else read_evaluation_index(self.index)
        plan = choose_views(
            collection,
            index,
            protocol.num_context,
            protocol.extra_views,
            self.scenes,
            self.whole_index,
            protocol.own_views,
        )
        if self.most_scenes:
            plan = ProtocolPlan(plan.scenes[: self.most_scenes], plan.notes)
        metrics = ImageMetrics.find(self.lpips_metric, None, min(protocol.image_size))
        rows = self._rows(protocol, plan, device)
        about = self._about(protocol, metrics)
        run = ProtocolRun(collection, plan, protocol, metrics, self.output, about, self.pictures, device)
        if len(rows) > 1:  # one that cannot be opened is named before hours of work, not after
            for opens in rows.values():
                run.register(opens())
        measured = [_measured(run, name, opens) for name, opens in rows.items()]
        report(run, measured, self.data_set, about)
        return 0

    def _rows(self, protocol: PosedProtocol, plan: ProtocolPlan, device: str) -> dict[str, Callable[[], Row]]:
        """Names of rows, and what opens each: one network at a time is in memory."""
        from ..evaluation.protocols.rows import NetworkRow
        from ..evaluation.protocols.sources import named, open_source, prior_of
        from ..evaluation.protocols.splat_rows import SplatRow

        networks, folders = named(self.rows, "--rows"), named(self.ply, "--ply")
        priors: dict[str, Prior | None] = {
            name: prior_of(text, name) for name, text in named(self.priors, "--priors").items()
        }
        twice, unknown = (
            [name for name in folders if name in networks],
            [name for name in priors if name not in networks],
        )
        if twice or unknown:
            option = "--ply: there is a row" if twice else "--priors: there is no network"
            raise ValueError(f"{option} {(twice or unknown)[0]!r}; --rows names {', '.join(networks) or 'none'}")

        def network(name: str) -> Row:
            opened = open_source(networks[name])
            opened.module.to(device)
            return NetworkRow(name, opened, protocol, priors.get(name))

        def splats(name: str) -> Row:
            return SplatRow(name, Path(folders[name]), protocol, [scene.name for scene in plan.scenes])

        opened_first = {
            name: splats(name) for name in folders
        }  # so that a missing folder is named before hours of work
        return {name: partial(network, name) for name in networks} | {
            name: lambda row=row: row for name, row in opened_first.items()
        }

    def _about(self, protocol: PosedProtocol, metrics: ImageMetrics) -> dict[str, Any]:
        """What the figures depend on beside the rows."""
        from ..training.settings import to_plain

        digest = "" if self.index is None else hashlib.sha256(self.index.read_bytes()).hexdigest()
        about = {"data": str(self.data.resolve()), "index_sha256": digest, "metrics": list(metrics.names)}
        return {**about, "protocol": to_plain(protocol)}


@dataclass
class Posed(Reproduction):
    """Given poses: 2 context views, 50 steps of test-time optimisation (Diff3R, RealEstate10K posed)."""

    protocol: Annotated[PosedProtocol, tyro.conf.arg(name="")] = field(default_factory=PosedProtocol)

    def run(self) -> int:
        """Measure what the CSV lacks, print the table, write the files."""
        return self.measure(self.protocol)


@dataclass
class Unposed(Reproduction):
    """Predicted poses: 4 context views, target poses optimised once, 300 steps (Diff3R, unposed tables)."""

    protocol: Annotated[UnposedProtocol, tyro.conf.arg(name="")] = field(default_factory=UnposedProtocol)

    def run(self) -> int:
        """Measure what the CSV lacks, print the table, write the files."""
        return self.measure(self.protocol)


Reproduce = Union[Annotated[Posed, subcommand("posed")], Annotated[Unposed, subcommand("unposed")]]  # noqa: UP007


def _measured(run: ProtocolRun, name: str, opens: Callable[[], Row]) -> RowFigures:
    row = opens()
    pending, total = len(run.pending(name)), len(run.plan.scenes)
    if pending < total:
        print(f"{name}: {total - pending} of {total} scenes have been measured before")
    with _progress(name, pending) as progress:
        return run.measure(row, progress)


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[str], None]]:
    """A callback (line of text) that moves a bar on a terminal, and elsewhere prints the line."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda line: print(line, flush=True)
        return
    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[t]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, t="")
        yield lambda line: progress.update(task, advance=1, t=line)
