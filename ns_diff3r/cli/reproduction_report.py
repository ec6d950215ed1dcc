# SPDX-License-Identifier: Apache-2.0
"""What `ns-diff3r reproduce` says at the end: the table beside the paper's, the open choices, where the files are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..evaluation.protocols.published import TITLES, DataSet, published_rows
from ..evaluation.protocols.run import ProtocolRun
from ..evaluation.protocols.settings import open_choices
from ..evaluation.protocols.tables import RowFigures, as_markdown, comparison
from .tables import print_table, write_json


def report(run: ProtocolRun, measured: Sequence[RowFigures], data_set: DataSet, about: Mapping[str, Any]) -> None:
    """Print the table, the open choices and the notes; write table.md, results.json and the picture strips."""
    protocol = run.protocol
    unposed = protocol.pose is not None
    published = published_rows(unposed, data_set)
    rows = comparison(measured, published)
    title = f"{'Unposed' if unposed else 'Posed'}: {protocol.num_context} views, {protocol.tto_steps} steps"
    paper = f"; the paper's numbers are of {TITLES[data_set]}" if published else ""
    images = sum(len(scene.targets) for scene in run.plan.scenes)
    asked = f"asked for: scenes {len(run.plan.scenes)}, images {images}"
    caption = f"before → after test-time optimisation, means over images; {asked}"
    choices = [{"left open by the paper": n, "here": value, "because": why} for n, value, why in open_choices(protocol)]
    notes = [*run.plan.notes, *run.metrics.notes, *run.notes]
    counts = {row.scenes for row in measured}
    if len(counts) > 1:
        notes.append("the rows were not measured on the same scenes; their means cannot be compared")
    if rows:
        print_table(title, rows, caption + paper)
    else:
        print(f"{title}: no row to measure; --rows and --ply name them")
    print_table("Choices", choices)
    for note in notes:
        print(f"note: {note}")
    text = f"# {title}\n\n{as_markdown(rows) if rows else ''}\n{caption}{paper}.\n\n{as_markdown(choices)}"
    text += "".join(f"\n- {note}" for note in notes) + "\n"
    (run.output / "table.md").write_text(text, encoding="utf-8")
    strips = run.write_strips([row.name for row in measured])
    results = {"rows": [asdict(row) for row in measured], "table": rows, "choices": choices, "notes": notes}
    write_json(run.output / "results.json", {**about, **results})
    pictures = f", {len(strips)} picture strips" if strips else ""
    print(f"wrote figures.csv, views.json, table.md, results.json{pictures} to {run.output}")
