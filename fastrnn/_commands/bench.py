"""python -m fastrnn bench: the comparison of speed, as a table in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from . import report
from .compare import PASSES, ROUNDS, Case, Comparison, Result, Shape
from .machine import Machine


def run(
    shapes: Sequence[Shape], cells: Sequence[str], dtype: torch.dtype, device: torch.device
) -> None:
    """Prints each row as soon as it is known."""
    machine = Machine.measure(dtype, device)
    print(report.head(machine, ROUNDS), *report.columns(cells), sep="\n", flush=True)
    results: list[Result] = []
    for shape in shapes:
        row = [
            Comparison(Case(cell, shape, training, dtype, device)).run()
            for cell in cells
            for training in PASSES.values()
        ]
        print(report.speed_row(shape, row), flush=True)
        results += row
    print(report.mean_row(results, cells), "", report.disturbance(results), "", sep="\n")
    print(report.floor_table(results, cells, machine))
