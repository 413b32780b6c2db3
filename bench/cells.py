"""Every cell's time over LSTM's, against the ratio of their FLOPs: python bench/cells.py.

The products are what a step mostly consists of, so a cell that takes much longer than its products
say wastes time. All cells take turns, round by round, and a ratio is the median of the rounds'.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from fastrnn._commands.compare import MODULES, PASSES, Case, Run, Shape
from fastrnn._commands.machine import Machine

SHAPES = "100,32,256,256", "100,64,512,512"
ROUNDS = 15
TOLERANCE = 0.25


def ratios(shape: Shape, training: bool, rounds: int) -> dict[str, tuple[float, float]]:
    """By cell: the time, and the FLOPs, over LSTM's."""
    torch.manual_seed(0)
    x = torch.randn(shape.T, shape.B, shape.I)
    grad_y = torch.randn(shape.T, shape.B, shape.H) if training else None
    runs = {cell: Run(make(shape.I, shape.H), x, grad_y) for cell, make in MODULES.items()}
    calls = {}
    for cell, run in runs.items():
        run.seconds(1)
        calls[cell] = max(1, round(0.05 / run.seconds(1)))
    seconds: dict[str, list[float]] = {cell: [] for cell in runs}
    for i in range(rounds):
        for cell in list(runs)[:: 1 if i % 2 == 0 else -1]:
            seconds[cell].append(runs[cell].seconds(calls[cell]) / calls[cell])
    flops = {cell: Case(cell, shape, training).flops for cell in runs}
    return {
        cell: (
            median(own / lstm for own, lstm in zip(times, seconds["lstm"], strict=True)),
            flops[cell] / flops["lstm"],
        )
        for cell, times in seconds.items()
    }


def table(found: dict[tuple[Shape, str], dict[str, tuple[float, float]]]) -> list[str]:
    titles = [f"{shape} {name}" for shape, name in found]
    rows = [f"| cell | {' | '.join(titles)} |", "| --- " * (len(titles) + 1) + "|"]
    for cell in MODULES:
        entries = []
        for of_case in found.values():
            time, flops = of_case[cell]
            flag = " **!**" if abs(time / flops - 1) > TOLERANCE else ""
            entries.append(f"{time:.2f} / {flops:.2f} = {time / flops:.2f}{flag}")
        rows.append(f"| {cell} | {' | '.join(entries)} |")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", type=Shape.parse, metavar="T,B,I,H")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--results", type=Path, help="DIR/NAME of the .md and .json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    machine = Machine.measure(torch.float32, torch.device("cpu"))
    found = {
        (shape, name): ratios(shape, training, args.rounds)
        for shape in args.shapes or map(Shape.parse, SHAPES)
        for name, training in PASSES.items()
    }
    text = "\n".join(
        [
            f"# The cells' times and their products\n\n{machine.name}, {machine.isa}, "
            f"{machine.threads} threads, {machine.dtype}; {machine.versions}; {machine.date}.\n\n"
            "Time over LSTM's / FLOPs over LSTM's = the quotient of these; a quotient further than "
            f"{TOLERANCE:.0%} from 1 is flagged. All cells took turns in one process; medians of "
            f"{args.rounds} rounds.\n",
            *table(found),
            "",
        ]
    )
    print(text)
    if args.results:
        args.results.with_name(f"{args.results.name}.md").write_text(text, "utf-8")
        as_json = {
            f"{shape} {name}": {c: {"time": t, "flops": f} for c, (t, f) in of_case.items()}
            for (shape, name), of_case in found.items()
        }
        args.results.with_name(f"{args.results.name}.json").write_text(
            json.dumps({"machine": vars(machine), "over_lstm": as_json}, indent=1) + "\n", "utf-8"
        )


if __name__ == "__main__":
    main()
