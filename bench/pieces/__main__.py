"""python -m bench.pieces: the speed of the engine's pieces on this CPU; with --floor, how near
layers come to what the pieces could do.

It compiles a program for the instruction set that fastrnn takes here (FASTRNN_ISA is heeded), which
takes half a minute, and runs it for about as long. It writes Markdown and JSON, by default into
bench/results, by the machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from fastrnn._commands.compare import GATES, PASSES, SHAPES, Case, Shape
from fastrnn._commands.machine import Machine

from . import floor, program, report

FOLDER = Path(__file__).parents[1] / "results"


def _kinds(text: str) -> list[str]:
    kinds = text.split(",")
    if not set(kinds) <= program.KINDS.keys():
        raise argparse.ArgumentTypeError(f"the pieces are {','.join(program.KINDS)}")
    return kinds


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.pieces",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=_kinds, help=f"some of {','.join(program.KINDS)}")
    parser.add_argument("--floor", action="store_true", help="layers over their floors")
    parser.add_argument(
        "shapes", nargs="*", type=Shape.parse, metavar="T,B,I,H", help="of --floor (default: eight)"
    )
    parser.add_argument("--dtype", choices=program.TYPES, default="float32")
    parser.add_argument("--threads", type=int, help="(default: torch's)")
    parser.add_argument("--milliseconds", type=float, default=program.MILLISECONDS)
    parser.add_argument("--repetitions", type=int, default=program.REPETITIONS)
    parser.add_argument("--results", type=Path, help="DIR/NAME of the .md and .json")
    given = parser.parse_args(arguments)
    if given.only and given.floor:
        parser.error("--floor needs the pieces that it needs, and not those of --only")
    if given.shapes and not given.floor:
        parser.error("shapes belong to --floor")
    return given


def main(arguments: Sequence[str] | None = None) -> None:
    given = parsed(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    dtype = getattr(torch, given.dtype)
    machine = Machine.measure(dtype, torch.device("cpu"))
    built = program.build(machine.isa, given.dtype)
    kinds = floor.KINDS if given.floor else given.only or list(program.KINDS)
    figures = program.measure(built, kinds, machine.threads, given.milliseconds, given.repetitions)
    if given.floor:
        cases = [
            Case(cell, shape, training, dtype)
            for shape in given.shapes or SHAPES
            for cell in GATES
            for training in PASSES.values()
        ]
        timed = floor.measure(cases, figures, machine)
        text = report.floor_document(timed, machine)
        for_programs = report.floor_json(timed, figures, machine)
    else:
        text = report.document(figures, machine, given.milliseconds, given.repetitions)
        for_programs = report.as_json(figures, machine)
    print(text)
    # A part of the results does not overwrite the whole.
    part = "-part" if given.only or given.shapes or given.threads else ""
    what = "floor" if given.floor else "pieces"
    name = f"cpu-{machine.slug}-{machine.dtype}-{what}{part}"
    target: Path = given.results or FOLDER / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_name(f"{target.name}.md").write_text(text, "utf-8")
    target.with_name(f"{target.name}.json").write_text(
        json.dumps(for_programs, indent=1) + "\n", "utf-8"
    )
    print(f"written to {target}.*")


if __name__ == "__main__":
    main()
