"""python -m bench.engines: fastrnn and torch.nn against inference engines, in float32, forward.

It times one layer over a sequence, and one step of a stack with the states fed back. Engines that
are not installed are left out (pip install ".[engines]"). It writes Markdown and JSON, by default
into bench/results, by the machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch

from fastrnn._commands.compare import CPU, GATES, SHAPES, Case, Shape
from fastrnn._commands.machine import Machine

from . import engines, report
from .layers import time_layer
from .stacks import STACKS, Stack, time_stack

FOLDER = Path(__file__).parents[1] / "results"


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.engines",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "shapes", nargs="*", type=Shape.parse, metavar="T,B,I,H", help="layers (default: eight)"
    )
    parser.add_argument(
        "--stacks", nargs="*", type=Stack.parse, metavar="LxH", help=f"(default: {_words(STACKS)})"
    )
    parser.add_argument(
        "--cells", nargs="+", choices=GATES, default=list(GATES), help="(default: all three)"
    )
    parser.add_argument("--threads", type=int, help="of all providers (default: torch's)")
    parser.add_argument("--results", type=Path, help="DIR/NAME of the .md and .json")
    return parser.parse_args()


def _words(values: Sequence[object]) -> str:
    return " ".join(map(str, values))


def main() -> None:
    given = _parsed()
    if given.threads:
        torch.set_num_threads(given.threads)
    threads, found = torch.get_num_threads(), engines.installed()
    machine = Machine.measure(torch.float32, CPU)
    # Who names layers or stacks wants no others.
    named = bool(given.shapes) or given.stacks is not None
    shapes = given.shapes if named else SHAPES
    stacks = [] if given.shapes and given.stacks is None else given.stacks or STACKS
    of_layers, of_stacks = [], []
    for cell, shape in product(given.cells, shapes):
        of_layers.append(time_layer(Case(cell, shape, False), found, threads))
        print(f"{cell} {shape} is timed", flush=True)
    for cell, stack in product(given.cells, stacks):
        of_stacks.append(time_stack(cell, stack, found, threads))
        print(f"{cell} {stack} is timed", flush=True)
    versions = engines.versions()
    text = report.document(of_layers, of_stacks, machine, versions, engines.missing())
    print(text)
    # A part of the results does not overwrite the whole.
    part = "-part" if named or len(given.cells) < len(GATES) or given.threads else ""
    name = f"cpu-{machine.slug}-{machine.dtype}-engines{part}"
    target: Path = given.results or FOLDER / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(f"{target.name}.md").write_text(text, "utf-8")
    target.with_name(f"{target.name}.json").write_text(
        json.dumps(report.for_programs(of_layers, of_stacks, machine, versions), indent=1) + "\n",
        "utf-8",
    )
    print(f"written to {target}.*")


if __name__ == "__main__":
    main()
