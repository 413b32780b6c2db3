"""The command line: python -m fastrnn demo, info or bench."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from . import GRU, __version__
from ._commands import bench, demo, info
from ._commands.compare import GATES, SHAPES, TOLERANCES, Shape

T = TypeVar("T")
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TOLERANCES}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastrnn", description="LSTM, GRU and RNN for PyTorch, fused."
    )
    parser.add_argument("--version", action="version", version=f"fastrnn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    one = commands.add_parser(
        "demo",
        help="train a model of text, in turns with fastrnn and with torch.nn (a minute)",
    )
    one.add_argument("--cell", choices=GATES, default="gru", help="default: gru")
    one.add_argument(
        "--steps", type=_count, default=demo.STEPS, help=f"of training (default: {demo.STEPS})"
    )
    one.add_argument(
        "--text", type=Path, metavar="FILE", help="to learn (default: Python's standard library)"
    )
    one.add_argument("--seed", type=int, default=0, help="of weights and batches (default: 0)")
    _add_machine_options(one)

    commands.add_parser("info", help="versions, kernels, and a self-check of a second")

    two = commands.add_parser("bench", help="time fastrnn against torch.nn")
    two.add_argument(
        "shapes",
        nargs="*",
        type=_argument(Shape.parse),
        metavar="T,B,I,H",
        help="steps, batch, input and hidden size (default: eight shapes, some minutes)",
    )
    two.add_argument(
        "--cells", type=_cells, default=[*GATES], metavar="CELL,...", help="of lstm, gru, rnn"
    )
    two.add_argument("--dtype", choices=DTYPES, default="float32")
    _add_machine_options(two)

    args = parser.parse_args(arguments)
    if getattr(args, "threads", None):
        torch.set_num_threads(args.threads)
    try:
        if args.command == "info":
            return info.run()
        if args.command == "bench":
            bench.run(args.shapes or SHAPES, args.cells, DTYPES[args.dtype], args.device)
        else:
            demo.run(args.cell, args.steps, args.text, args.seed, args.device)
    except demo.TextError as error:
        one.error(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", type=_argument(_device), default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=_count, help="of the CPU (default: torch's)")


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """parse, with its complaints in argparse's form."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except (ValueError, RuntimeError, AssertionError) as error:
            raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from error

    return checked


def _device(text: str) -> torch.device:
    """A device on which fastrnn computes: found out by doing it."""
    device = torch.device(text)
    GRU(1, 1, device=device)(torch.zeros(1, 1, 1, device=device))[0].tolist()
    return device


@_argument
def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"a whole number from 1, and not {text!r}")
    return int(text)


@_argument
def _cells(text: str) -> list[str]:
    if not set(text.split(",")) <= GATES.keys():
        raise ValueError(f"cells are {', '.join(GATES)}, with commas between, and not {text!r}")
    return text.split(",")


if __name__ == "__main__":
    sys.exit(main())
